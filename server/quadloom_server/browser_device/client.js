/** Speaks the device protocol of quadloom_runtime/contract/wire.py with the server that this page came from. */
import { sha256Hex } from "./encoding.js";
import { QuadloomError } from "./errors.js";
import { TryAgainError, patiently } from "./retry.js";
import { sign } from "./signatures.js";

const MESSAGE_TIMEOUT_MS = 30_000;
const UPLOAD_TIMEOUT_MS = 600_000;
const STALL_MS = 30_000;
const DOWNLOAD_ATTEMPTS = 2;
const LONGEST_RETRY_AFTER_S = 60;
const TEMPORARY = [408, 429];
const EMPTY = new Uint8Array();

/** The server answered and said no; `code` is the stable one of its ErrorResponse. */
export class RefusedError extends QuadloomError {
  constructor(status, error) {
    super(`the server refused (${status} ${error.code}): ${error.cause}`, error.remedy);
    this.code = error.code;
    this.serverTimeS = error.server_time_s;
  }
}

/** One device's requests; every one is signed, and tried again while the server cannot be reached. */
export class ServerClient {
  /**
   * @param {{privateKey: CryptoKey, publicKey: string}} key
   * @param {{stopped: AbortSignal, onWait: (cause: string, waitS: number) => void}} options
   */
  constructor(key, { stopped, onWait }) {
    Object.assign(this, { key, stopped, onWait });
    this.keyId = key.publicKey;
    this.clockOffsetS = 0;
    this.downBytes = 0; // of blobs
    this.downloadS = 0; // in which they came
  }

  /** Introduce this device; again with the same key updates its capabilities. */
  async enrol(name, capabilities, token) {
    this.keyId = this.key.publicKey; // the server may have forgotten the id, or given none yet
    const message = { name, capabilities, public_key: this.key.publicKey, enrolment_token: token || null };
    const answer = await this.#message("/v1/devices", message);
    this.keyId = answer.device_id;
    return answer;
  }

  /** Ask for work. */
  checkIn() {
    return this.#message(`/v1/devices/${encodeURIComponent(this.keyId)}/check-in`, {});
  }

  /** Send an update (safetensors); sending it again is safe. */
  reportUpdate(assignmentId, content) {
    const path = `/v1/assignments/${encodeURIComponent(assignmentId)}/update`;
    return this.#send("PUT", path, content, "application/vnd.safetensors", UPLOAD_TIMEOUT_MS);
  }

  /** Say that an assignment cannot be done. */
  reportFailure(assignmentId, report) {
    return this.#message(`/v1/assignments/${encodeURIComponent(assignmentId)}/failure`, report);
  }

  /** A blob by its hash, continued where the connection broke; not more than `largestBytes` are taken in. */
  async download(sha256, largestBytes) {
    for (let attempt = 0; attempt < DOWNLOAD_ATTEMPTS; attempt++) {
      const parts = [];
      const progress = () => this.downBytes;
      const started = performance.now();
      await this.#patiently(() => this.#downloadRest(sha256, parts, largestBytes), progress);
      this.downloadS += (performance.now() - started) / 1000;
      const content = new Uint8Array(await new Blob(parts).arrayBuffer());
      if ((await sha256Hex(content)) === sha256) return content;
    }
    throw new QuadloomError(
      `blob ${sha256} came with another content ${DOWNLOAD_ATTEMPTS} times`,
      "check the server's family",
    );
  }

  async #downloadRest(sha256, parts, largestBytes) {
    let have = parts.reduce((sum, part) => sum + part.length, 0);
    const alive = new AbortController();
    const stall = () => setTimeout(() => alive.abort(new TryAgainError("the download stands still")), STALL_MS);
    let timer = stall();
    try {
      const headers = have > 0 ? { range: `bytes=${have}-` } : {};
      const response = await this.#fetch("GET", `/v1/blobs/${sha256}`, EMPTY, headers, alive.signal);
      if (response.status === 416) return; // everything is here already; the hash decides
      if (!response.ok) await raiseFor(response);
      if (response.status !== 206) {
        parts.length = 0;
        have = 0;
      }
      const reader = response.body.getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        have += part.value.length;
        if (have > largestBytes) {
          alive.abort();
          throw new QuadloomError(
            `blob ${sha256} came with more than its ${largestBytes} bytes`,
            "check the server's family",
          );
        }
        parts.push(part.value);
        this.downBytes += part.value.length;
        clearTimeout(timer);
        timer = stall();
      }
    } catch (error) {
      throw error instanceof TypeError ? new TryAgainError(`the connection broke: ${error.message}`) : error;
    } finally {
      clearTimeout(timer);
    }
  }

  #message(path, message) {
    const content = new TextEncoder().encode(JSON.stringify(message));
    return this.#send("POST", path, content, "application/json", MESSAGE_TIMEOUT_MS);
  }

  #send(method, path, content, mediaType, timeoutMs) {
    return this.#patiently(async () => {
      const headers = { "content-type": mediaType };
      try {
        const response = await this.#fetch(method, path, content, headers, AbortSignal.timeout(timeoutMs));
        if (!response.ok) await raiseFor(response);
        return await response.json();
      } catch (error) {
        const isBroken = error instanceof TypeError || error.name === "TimeoutError";
        throw isBroken ? new TryAgainError(`no answer: ${error.message}`) : error;
      }
    });
  }

  /** One attempt; if this clock is wrong, the server's is taken over and the request sent once more. */
  async #patiently(attempt, progress) {
    const once = async () => {
      try {
        return await attempt();
      } catch (error) {
        if (error.code !== "clock-skew" || !(error.serverTimeS > 0)) throw error;
        this.clockOffsetS = error.serverTimeS - Date.now() / 1000;
        return await attempt();
      }
    };
    return patiently(once, { progress, onWait: this.onWait, stopped: this.stopped });
  }

  async #fetch(method, path, content, headers, signal) {
    const createdS = Date.now() / 1000 + this.clockOffsetS;
    const signature = await sign(this.key.privateKey, { method, path, content, keyId: this.keyId, createdS });
    return fetch(path, {
      method,
      headers: { ...headers, ...signature },
      body: method === "GET" ? undefined : content,
      signal: AbortSignal.any([signal, this.stopped]),
      cache: "no-store", // blobs have a cache of their own, and an answer belongs to one signature
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
  }
}

async function raiseFor(response) {
  let error;
  try {
    error = await response.json();
  } catch {
    error = { code: "unknown", cause: "no explanation", remedy: "check that this is Quadloom's server" };
  }
  // A browser sends a request again by itself when a kept connection turns out to be dead, and the server takes a
  // signature once; the next attempt has one of its own.
  const isRepeated = response.status === 401 && error.code === "replayed-request";
  if (response.status >= 500 || TEMPORARY.includes(response.status) || isRepeated) {
    const stated = Number(response.headers.get("retry-after")) || 0;
    throw new TryAgainError(
      `HTTP ${response.status}: ${error.cause}`,
      Math.min(Math.max(stated, 0), LONGEST_RETRY_AFTER_S),
    );
  }
  throw new RefusedError(response.status, error);
}
