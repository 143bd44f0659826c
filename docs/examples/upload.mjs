// Upload a file from a web page with plain fetch: resumable, in parallel, checked.
//
// The server has to know the page's origin: upload-kit serve --allow-origin https://...

/** Send a request; throw what the server says is wrong, and what to do. */
async function ask(server, method, path, { body, headers = {}, token } = {}) {
  const answer = await fetch(new URL(path, server), {
    method,
    body,
    headers: { ...headers, ...(token && { Authorization: `Bearer ${token}` }) },
  });
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  const error = new Error(`${problem.detail} ${problem.next_step ?? ""}`.trim());
  error.status = answer.status;
  throw error;
}

/** The same again, a few times, where that may help. */
async function persist(attempt, tries = 5) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await attempt();
    } catch (error) {
      const hopeless = error.status && error.status < 500 && ![408, 429].includes(error.status);
      if (hopeless || failures >= tries) throw error;
      await new Promise((wake) => setTimeout(wake, Math.random() * 250 * 2 ** failures));
    }
  }
}

const json = (value) => ({
  body: JSON.stringify(value),
  headers: { "Content-Type": "application/json" },
});

/** Upload a File or Blob; returns the server's status document. */
export async function upload(file, server, { name = file.name, token, sessionId = null, parallel = 3, onProgress = () => {}, onSession = () => {} } = {}) {
  const begin = json({ name, size: file.size, content_type: file.type || undefined, session_id: sessionId });
  const session = await persist(() => ask(server, "POST", "upload/resumable", { ...begin, token }));
  onSession(session.session_id);

  // What is missing: ranges of chunk indexes. After a reload the server still knows.
  const queue = session.missing.flatMap(([from, to]) =>
    Array.from({ length: to - from }, (_, offset) => from + offset),
  );
  let confirmed = session.received_bytes;
  onProgress(confirmed, file.size);

  const lane = async () => {
    for (let index; (index = queue.shift()) !== undefined; ) {
      const start = index * session.chunk_size;
      const chunk = await file.slice(start, start + session.chunk_size).arrayBuffer();
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", chunk));
      const headers = {
        "Content-Type": "application/octet-stream",
        "Content-Digest": `sha-256=:${btoa(String.fromCharCode(...digest))}:`,
      };
      const path = `upload/resumable/${session.session_id}/chunks/${index}`;
      await persist(() => ask(server, "PUT", path, { body: chunk, headers, token }));
      confirmed += chunk.byteLength;
      onProgress(confirmed, file.size);
    }
  };
  await Promise.all(Array.from({ length: parallel }, lane));
  const path = `upload/resumable/${session.session_id}/complete`;
  return persist(() => ask(server, "POST", path, { ...json({}), token }));
}
