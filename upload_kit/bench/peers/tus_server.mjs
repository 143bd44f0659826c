// @tus/server over a folder: node ... FOLDER PORT; prints where it is.

import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const [folder, port] = process.argv.slice(-2)
const server = new Server({ path: '/files', datastore: new FileStore({ directory: folder }) })
const listening = server.listen({ host: '127.0.0.1', port: Number(port) }, () => {
  console.log(`http://127.0.0.1:${listening.address().port}/files`)
})
