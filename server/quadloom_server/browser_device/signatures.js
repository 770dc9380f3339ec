/** Signed requests: the profile of RFC 9421 and RFC 9530 that quadloom_runtime/contract/signatures.py describes. */
import { base64 } from "./encoding.js";

const NONCE_BYTES = 16;

/**
 * The three fields to send with a request.
 *
 * @param {CryptoKey} privateKey Ed25519
 * @param {object} request
 * @param {string} request.method
 * @param {string} request.path as it will stand in the request line; these requests have no query
 * @param {Uint8Array} request.content the body, also an empty one
 * @param {string} request.keyId what the server knows the key by
 * @param {number} request.createdS seconds since the epoch
 */
export async function sign(privateKey, { method, path, content, keyId, createdS }) {
  const digest = `sha-256=:${base64(await crypto.subtle.digest("SHA-256", content))}:`;
  const nonce = base64(crypto.getRandomValues(new Uint8Array(NONCE_BYTES)));
  const covered = '("@method" "@path" "content-digest")';
  const created = Math.floor(createdS);
  const parameters = `${covered};created=${created};keyid="${keyId}";alg="ed25519";nonce="${nonce}"`;
  const lines = [
    `"@method": ${method}`,
    `"@path": ${path}`,
    `"content-digest": ${digest}`,
    `"@signature-params": ${parameters}`,
  ];
  const base = lines.join("\n");
  const signature = await crypto.subtle.sign("Ed25519", privateKey, new TextEncoder().encode(base));
  return {
    "content-digest": digest,
    "signature-input": `quadloom=${parameters}`,
    signature: `quadloom=:${base64(signature)}:`,
  };
}
