// tus-js-client uploads a file, measured: node ... ORDER; prints its figures as JSON.

import fs from 'node:fs'
import * as tus from 'tus-js-client'

const order = JSON.parse(process.argv.at(-1))

// On Linux, maxRSS begins with what this process was before it became Node.
function peakMemory() {
  const status = '/proc/self/status'
  if (!fs.existsSync(status)) return process.resourceUsage().maxRSS * 1024
  return 1024 * Number(/VmHWM:\s+(\d+) kB/.exec(fs.readFileSync(status, 'utf8'))[1])
}

const cpu = process.cpuUsage()
const started = process.hrtime.bigint()

const upload = new tus.Upload(fs.createReadStream(order.path), {
  endpoint: order.url,
  chunkSize: order.chunk_size,
  // tuspyserver asks for a file's type.
  metadata: { filename: 'file.bin', filetype: 'application/octet-stream' },
  onError: (error) => {
    console.error(error.message)
    process.exit(1)
  },
  onSuccess: () => {
    const seconds = Number(process.hrtime.bigint() - started) / 1e9
    const used = process.cpuUsage(cpu)
    const figures = {
      seconds,
      cpu_seconds: (used.user + used.system) / 1e6,
      peak_rss: peakMemory(),
    }
    fs.writeSync(1, `${JSON.stringify(figures)}\n`)
    process.exit(0)
  },
})
upload.start()
