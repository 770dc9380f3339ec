/** A device's partial copy of a family: files by their hash in the browser's Cache API, checked before each use. */
import { sha256Hex } from "./encoding.js";
import { QuadloomError } from "./errors.js";

const CACHE = "quadloom-blobs";
const MANIFEST_SCHEMA_VERSION = 1;
const LARGEST_MANIFEST_BYTES = 32 << 20;

/** Brings files of the family here; `onBlob` is told the path before each download. */
export class FamilyCopy {
  static async open(client, onBlob) {
    return new FamilyCopy(await caches.open(CACHE), client, onBlob);
  }

  constructor(cache, client, onBlob) {
    Object.assign(this, { cache, client, onBlob });
  }

  /** The manifest of this hash. */
  async manifest(sha256) {
    const content = await this.bring({ sha256, path: "family.json", size_bytes: LARGEST_MANIFEST_BYTES });
    const manifest = JSON.parse(new TextDecoder().decode(content));
    if (manifest.schema_version !== MANIFEST_SCHEMA_VERSION) {
      throw new QuadloomError(
        `the manifest has schema version ${manifest.schema_version}, this page reads ${MANIFEST_SCHEMA_VERSION}`,
        "reload this page, or export the family again",
      );
    }
    if (manifest.task.kind !== "sequence-classification") {
      throw new QuadloomError(
        `the family is for ${manifest.task.kind}, this page trains classifiers`,
        "use `quadloom device`",
      );
    }
    return manifest;
  }

  /** A file, from the cache if it is there unaltered. */
  async bring({ sha256, path, size_bytes: sizeBytes }) {
    const address = `/v1/blobs/${sha256}`;
    const kept = await this.cache.match(address);
    if (kept !== undefined) {
      const content = new Uint8Array(await kept.arrayBuffer());
      if ((await sha256Hex(content)) === sha256) return content;
    }
    this.onBlob(path);
    const content = await this.client.download(sha256, sizeBytes);
    await this.cache.put(address, new Response(content));
    return content;
  }

  /** Forget a file that no later round needs. */
  forget({ sha256 }) {
    return this.cache.delete(`/v1/blobs/${sha256}`);
  }
}

/** The member of an assignment. Only the manifest says which files make it; others are refused. */
export function assignedMember(manifest, assignment) {
  const member = manifest.members.find((each) => memberLabel(each.key) === memberLabel(assignment.member));
  if (member === undefined || member.key.format !== "onnx") {
    throw new QuadloomError(
      `the family has no ONNX member ${memberLabel(assignment.member)}`,
      "check the server and its family",
    );
  }
  const named = new Set(assignment.blobs.map((blob) => `${blob.path} ${blob.sha256}`));
  const right = filesFor(manifest, member).map((blob) => `${blob.path} ${blob.sha256}`);
  if (named.size !== new Set(right).size || !right.every((each) => named.has(each))) {
    throw new QuadloomError(
      `the assignment names other files than the manifest has for ${memberLabel(member.key)}`,
      "do not trust this server before its owner can say why",
    );
  }
  return member;
}

/** The shared weights of the format. */
export function weightsOf(manifest) {
  return manifest.formats.find((each) => each.format === "onnx").weights;
}

/** The file that the tokenizer is read from. */
export function tokenizerBlob(manifest) {
  const found = manifest.tokenizer.find((blob) => blob.path.split("/").at(-1) === "tokenizer.json");
  if (found === undefined) throw new QuadloomError("the family names no tokenizer.json", "export the family again");
  return found;
}

/** Rows of the parameter table that a member of this depth trains: its layers' adapters and the head. */
export function trainedRows(manifest, table, depth) {
  const first = manifest.model.layers - depth;
  return table.filter((row) => row.layer === "head" || row.layer >= first);
}

/** Name of a member: `d06-q04`, and `d06-q04-r30 executorch` if it may recompute 30 % and is of another format. */
export function memberLabel(key) {
  const two = (number) => String(number).padStart(2, "0");
  const recompute = key.recompute_percent ? `-r${two(key.recompute_percent)}` : "";
  return `d${two(key.depth)}-q${two(key.quantized_layers)}${recompute}${key.format === "onnx" ? "" : ` ${key.format}`}`;
}

function filesFor(manifest, member) {
  return [member.graph, ...member.companions, weightsOf(manifest), ...manifest.tokenizer];
}
