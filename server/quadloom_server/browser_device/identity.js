/** The device's Ed25519 key: made in this browser, which never lets it out, not even to this page. */
import { QuadloomError } from "./errors.js";
import { base64 } from "./encoding.js";

/** The key pair of this browser for this server, made at the first call; and the text of its public half. */
export async function deviceKey(kept) {
  const pair = (await kept.get("key")) ?? (await makeKey(kept));
  const raw = await crypto.subtle.exportKey("raw", pair.publicKey);
  return { privateKey: pair.privateKey, publicKey: base64(raw) };
}

async function makeKey(kept) {
  let pair;
  try {
    pair = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
  } catch (error) {
    throw new QuadloomError(`this browser makes no Ed25519 keys (${error.message})`, "use one of 2025 or later");
  }
  await kept.put("key", pair);
  return pair;
}
