package org.quadloom.core;

/** One file of the family, addressed by its content. */
public final class BlobReference {
  /** Path inside the family's folder, with forward slashes. */
  public final String path;

  /** SHA-256 of the content, hex. */
  public final String sha256;

  public final long sizeBytes;

  public BlobReference(String path, String sha256, long sizeBytes) {
    this.path = path;
    this.sha256 = sha256;
    this.sizeBytes = sizeBytes;
  }

  @Override
  public boolean equals(Object other) {
    if (!(other instanceof BlobReference)) {
      return false;
    }
    BlobReference blob = (BlobReference) other;
    return path.equals(blob.path) && sha256.equals(blob.sha256) && sizeBytes == blob.sizeBytes;
  }

  @Override
  public int hashCode() {
    return 31 * path.hashCode() + sha256.hashCode();
  }
}
