/** What survives a reload of the tab, in the browser's IndexedDB: the device's key, a checkpoint, an unsent update. */

const DATABASE = "quadloom-device";
const STORE = "kept";

/** Named values, each written whole or not at all. */
export class Kept {
  static async open() {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    return new Kept(await done(opening));
  }

  constructor(database) {
    this.database = database;
  }

  /** The value of a name; undefined if there is none. */
  get(name) {
    return done(this.#store("readonly").get(name));
  }

  /** Keep a value, also a key that cannot be exported. */
  put(name, value) {
    return done(this.#store("readwrite").put(value, name));
  }

  /** Forget these names. */
  async remove(...names) {
    for (const name of names) await done(this.#store("readwrite").delete(name));
  }

  /** What is kept under a name for this assignment, undefined if it is another's. */
  async of(assignmentId, name) {
    const found = await this.get(name);
    return found?.assignmentId === assignmentId ? found.value : undefined;
  }

  /** Keep a value for this assignment alone. */
  putFor(assignmentId, name, value) {
    return this.put(name, { assignmentId, value });
  }

  #store(mode) {
    return this.database.transaction(STORE, mode, { durability: "strict" }).objectStore(STORE);
  }
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
