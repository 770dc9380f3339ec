// A device of the page in Node.js: its own modules, a server over real sockets, and memory for the browser's stores.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { page } from "./vectors.mjs";

const { DeviceAgent } = await import(new URL("agent.js", page));
const { ServerClient } = await import(new URL("client.js", page));
const { FamilyCopy } = await import(new URL("family_copy.js", page));
const { deviceKey } = await import(new URL("identity.js", page));
const { Kept } = await import(new URL("kept.js", page));

const MEMBER = { depth: 0, quantized_layers: 0, recompute_percent: 0, format: "onnx" };
const HEAD = { name: "head", shape: [2], layer: "head", rank: null };

/** What a server of one small task sends, by hash. */
function smallFamily() {
  const contents = new Map();
  const blob = (path, content) => {
    const sha256 = createHash("sha256").update(content).digest("hex");
    contents.set(sha256, content);
    return { path, sha256, size_bytes: content.length };
  };
  const weights = blob("onnx/weights.bin", "weights");
  const graph = blob("onnx/d00-q00.onnx", "graph");
  const tokenizer = blob("tokenizer/tokenizer.json", "{}");
  const manifest = {
    schema_version: 1,
    task: { kind: "sequence-classification", num_labels: 2 },
    model: { source: "small", layers: 1 },
    members: [{ key: MEMBER, graph, companions: [] }],
    formats: [{ format: "onnx", weights }],
    tokenizer: [tokenizer],
    parameters: [HEAD],
    lora: { rank: 4 },
  };
  return {
    contents,
    manifest_sha256: blob("family.json", JSON.stringify(manifest)).sha256,
    adapter: blob("adapter", "adapter"),
    blobs: [weights, graph, tokenizer],
  };
}

/** A server with one assignment; what devices report is put into `reports`. */
export async function smallTask({ blobDelayMs = 0 } = {}) {
  const { contents, ...family } = smallFamily();
  const assignment = {
    ...family,
    assignment_id: "first",
    round_index: 1,
    member: MEMBER,
    rank: 4,
    reason: "deepest",
    retry_after_accepted_s: 0,
    retry_after_rejected_s: 0,
  };
  const reports = [];
  const noted = (report) => (reports.push(report), { status: "accepted", reason: "" });
  const answers = {
    "/v1/devices": () => ({ device_id: "d", manifest_sha256: family.manifest_sha256 }),
    "/v1/devices/d/check-in": () =>
      reports.length === 0 ? { assignment } : { assignment: null, task_state: "finished", reason: "all rounds" },
    "/v1/assignments/first/update": (update) => noted({ update }),
    "/v1/assignments/first/failure": (failure) => noted({ failure: JSON.parse(failure) }),
  };
  const close = await serveToPage(async (request, content, response) => {
    const sha256 = request.url.split("/v1/blobs/")[1];
    if (sha256 !== undefined) await sleep(blobDelayMs);
    response.end(sha256 === undefined ? JSON.stringify(answers[request.url](content)) : contents.get(sha256));
  });
  return { reports, close };
}

/** Serve what the page fetches by paths alone; gives what ends it. */
export async function serveToPage(answer) {
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    await answer(request, Buffer.concat(parts), response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const fetchAnywhere = globalThis.fetch;
  globalThis.fetch = (path, options) => fetchAnywhere(`http://127.0.0.1:${server.address().port}${path}`, options);
  return () => {
    globalThis.fetch = fetchAnywhere;
    server.closeAllConnections();
    server.close();
  };
}

/** What survives a reload: the browser's database as a map. */
export function keptInMemory() {
  const values = new Map();
  return Object.assign(new Kept(null), {
    values,
    get: async (name) => values.get(name),
    put: async (name, value) => void values.set(name, value),
    remove: async (...names) => names.forEach((name) => values.delete(name)),
  });
}

/** Cached files as a map; `slowly` is awaited at each use. */
export function cacheInMemory(slowly = async () => {}) {
  const contents = new Map();
  return {
    match: async (address) => (await slowly(), contents.has(address) ? new Response(contents.get(address)) : undefined),
    put: async (address, response) => (await slowly(), contents.set(address, await response.arrayBuffer())),
    delete: async (address) => contents.delete(address),
  };
}

/** Signed requests of a new device. */
export async function newClient(stopped = new AbortController().signal) {
  return new ServerClient(await deviceKey(keptInMemory()), { stopped, onWait: () => {} });
}

/** A device whose training, instead of a worker's, is a change of the head. */
export async function newDevice({ kept = keptInMemory(), cache = cacheInMemory(), client }) {
  globalThis.Worker = TrainedAtOnce;
  return new DeviceAgent({
    kept,
    client,
    family: new FamilyCopy(cache, client, () => {}),
    options: { name: "tab", memoryLimitBytes: 1, rank: null, token: "" },
    examples: { texts: ["good"], labels: [1] },
    say: () => {},
    stopped: client.stopped,
  });
}

class TrainedAtOnce {
  postMessage() {
    const figures = { examples: 1, steps: 1, lossFirst: 1, lossLast: 1, trainS: 1, gradientNorms: [] };
    const outcome = { ...figures, update: new Map([["head", Float32Array.of(1, 2)]]) };
    queueMicrotask(() => this.onmessage({ data: { kind: "trained", outcome, baselineBytes: 1, peakStepBytes: 1 } }));
  }

  terminate() {}
}
