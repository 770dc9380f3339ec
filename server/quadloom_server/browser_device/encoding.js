/** Bytes as text. */

/** Base64 of a buffer of some bytes. */
export function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}

/** SHA-256 of bytes, in hex. */
export async function sha256Hex(content) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
