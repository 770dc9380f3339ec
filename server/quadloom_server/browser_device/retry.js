/** Try again with exponential backoff and full jitter, until patience runs out. */
import { ServerUnreachableError } from "./errors.js";

const PATIENCE_S = 120;
const FIRST_BOUND_S = 0.5;
const LARGEST_BOUND_S = 30;

/** The server is there but cannot answer just now, or nothing came through; `afterS` is what it asked for. */
export class TryAgainError extends Error {
  constructor(cause, afterS = 0) {
    super(cause);
    this.afterS = afterS;
  }
}

/**
 * The first success of `attempt`.
 *
 * @param {() => Promise} attempt fails with a TryAgainError where it is worth trying again
 * @param {object} options
 * @param {() => number} options.progress a number that grows while it gets somewhere, which renews patience
 * @param {(cause: string, waitS: number) => void} options.onWait told before each new attempt
 * @param {AbortSignal} options.stopped
 */
export async function patiently(attempt, { progress = () => 0, onWait = () => {}, stopped }) {
  let reached = progress();
  let giveUpAt = null;
  let boundS = FIRST_BOUND_S;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TryAgainError)) throw error;
      if (giveUpAt === null || progress() > reached) {
        reached = progress();
        giveUpAt = performance.now() + PATIENCE_S * 1000;
        boundS = FIRST_BOUND_S;
      }
      const waitS = Math.random() * boundS + error.afterS;
      boundS = Math.min(2 * boundS, LARGEST_BOUND_S);
      if (performance.now() + waitS * 1000 > giveUpAt) {
        throw new ServerUnreachableError(
          `the server did not answer for ${PATIENCE_S} s: ${error.message}`,
          "start again later",
        );
      }
      onWait(error.message, waitS);
      await pause(waitS, stopped);
    }
  }
}

/** Let seconds pass; rejects once the person stops the device. */
export function pause(seconds, stopped) {
  return new Promise((resolve, reject) => {
    stopped?.throwIfAborted();
    const stop = () => (clearTimeout(timer), reject(stopped.reason));
    const end = () => (stopped?.removeEventListener("abort", stop), resolve()); // the signal outlives many pauses
    const timer = setTimeout(end, seconds * 1000);
    stopped?.addEventListener("abort", stop, { once: true });
  });
}
