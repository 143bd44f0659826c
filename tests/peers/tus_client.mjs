// tus-js-client uploads a file: node ... OPTIONS; prints a line of JSON at every step.
//
// OPTIONS is JSON: those of the client itself, and
//   file       what to upload
//   urls       file in which it remembers uploads, to go on with them
//   stopAfter  bytes after which it stops, as a user would
//   terminate  have the upload removed when it stops

import fs from 'node:fs'
import { PassThrough } from 'node:stream'
import * as tus from 'tus-js-client'

const { file, urls, stopAfter, terminate, ...options } = JSON.parse(process.argv.at(-1))
const say = (line) => fs.writeSync(1, `${JSON.stringify(line)}\n`)
const requests = []

// It knows the length of a file, and then does not defer it: a stream has none.
const input = fs.createReadStream(file)
const source = options.uploadLengthDeferred ? input.pipe(new PassThrough()) : input

const upload = new tus.Upload(source, {
  ...options,
  ...(urls && { urlStorage: new tus.FileUrlStorage(urls) }),
  onBeforeRequest: (request) => {
    requests.push(request.getMethod())
  },
  onProgress: (sent) => {
    say({ sent })
    if (stopAfter !== undefined && sent >= stopAfter && !stopping) stop()
  },
  onChunkComplete: (_size, accepted) => say({ accepted }),
  onSuccess: () => end({ url: upload.url }),
  onError: (error) => end({ error: error.message, status: error.originalResponse?.getStatus() }),
})

let stopping = false

function stop() {
  stopping = true
  upload.abort(terminate).then(
    () => end({ stopped: upload.url }),
    (error) => end({ error: error.message }),
  )
}

function end(result) {
  say({ ...result, requests })
  process.exit(0)
}

const previous = urls ? await upload.findPreviousUploads() : []
if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
upload.start()
