/**
 * Bounds and measures the memory of WebAssembly in this worker. Import it before whatever makes that memory.
 *
 * The module asks for more a fifth at a time, and less if that is refused: figures are in that grain.
 */

let memory = null;
let largestBytes = Infinity;

WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(descriptor) {
    super(descriptor);
    memory = this;
  }

  grow(pages) {
    if (memoryBytes() + pages * 65_536 > largestBytes)
      throw new RangeError("the memory limit of this device is reached");
    return super.grow(pages);
  }
};

/** Bytes that the module holds; it gives none back. */
export function memoryBytes() {
  return memory === null ? 0 : memory.buffer.byteLength;
}

/** Let the module grow by so many bytes from now on, and by the twentieth that it takes beyond what it needs. */
export function limitGrowth(bytes) {
  largestBytes = memoryBytes() * 1.05 + bytes;
}
