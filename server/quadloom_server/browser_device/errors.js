/** An error for people: what was wrong with which value, and what to do about it. */
export class QuadloomError extends Error {
  constructor(cause, remedy) {
    super(`${cause}; ${remedy}`);
    this.name = "QuadloomError";
  }
}

/** The server did not answer for as long as patience lasts: nothing is wrong with the work, which is kept. */
export class ServerUnreachableError extends QuadloomError {
  constructor(cause, remedy) {
    super(cause, remedy);
    this.name = "ServerUnreachableError";
  }
}

/** A training step needed more memory than the person allows, or than the browser has. */
export class StepOutOfMemoryError extends QuadloomError {
  constructor(member, detail) {
    super(`member ${member} does not fit: ${detail}`, "the server assigns a smaller one");
    this.name = "StepOutOfMemoryError";
  }
}

/** What browsers and WebAssembly say; other causes name memory, too, or hold OOM within a word like "room". */
const MEMORY_PROBLEM =
  /bad_alloc|(failed to|could not|cannot) allocate|allocation failed|out of memory|\bOOM\b|memory access/i;

/** Whether the text of an error says that memory did not suffice. */
export function saysOutOfMemory(text) {
  return MEMORY_PROBLEM.test(text);
}
