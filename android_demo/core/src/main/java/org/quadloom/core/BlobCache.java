package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;

/** Files by the SHA-256 of their content; one has its final name only when its content has been checked. */
final class BlobCache {
  private final File folder;

  BlobCache(File folder) {
    this.folder = folder;
  }

  File path(String sha256) {
    return new File(new File(folder, sha256.substring(0, 2)), sha256);
  }

  /** Where a download grows. */
  File partial(String sha256) {
    return new File(path(sha256).getPath() + ".part");
  }

  /** Whether the blob is here and intact; an altered one is removed, so that it is fetched again. */
  boolean holds(String sha256) throws QuadloomException {
    File file = path(sha256);
    if (file.isFile() && hash(file).equals(sha256)) {
      return true;
    }
    file.delete();
    return false;
  }

  /** Bytes of the blob that are here, finished or not; unchecked. */
  long sizeHere(String sha256) {
    return path(sha256).isFile() ? path(sha256).length() : partial(sha256).length();
  }

  /** Check a finished download and give it its final name; false, and it is removed, if the content is wrong. */
  boolean acceptPartial(String sha256) throws QuadloomException {
    File partial = partial(sha256);
    if (!hash(partial).equals(sha256)) {
      partial.delete();
      return false;
    }
    try {
      DurableFiles.rename(partial, path(sha256));
    } catch (IOException error) {
      throw DurableFiles.failed(path(sha256), error);
    }
    return true;
  }

  void remove(String sha256) {
    path(sha256).delete();
  }

  /** Put a blob under its family path: a hard link where the platform lets apps make one, else a copy. */
  void linkInto(FamilyFolder family, BlobReference blob) throws QuadloomException {
    File source = path(blob.sha256);
    File target = family.path(blob);
    DurableFiles.makeFolder(target.getParentFile());
    try {
      if (target.exists() && (Files.isSameFile(target.toPath(), source.toPath()) || isCopy(target, blob))) {
        return;
      }
      target.delete();
      try {
        Files.createLink(target.toPath(), source.toPath());
      } catch (IOException | UnsupportedOperationException | SecurityException error) {
        Files.copy(source.toPath(), target.toPath(), StandardCopyOption.REPLACE_EXISTING);
      }
    } catch (IOException error) {
      throw DurableFiles.failed(target, error);
    }
  }

  private static boolean isCopy(File target, BlobReference blob) throws QuadloomException {
    return target.length() == blob.sizeBytes && hash(target).equals(blob.sha256);
  }

  private static String hash(File file) throws QuadloomException {
    try {
      return Hashes.sha256(file);
    } catch (IOException error) {
      throw DurableFiles.failed(file, error);
    }
  }
}
