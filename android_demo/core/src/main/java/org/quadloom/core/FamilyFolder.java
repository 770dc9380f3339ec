package org.quadloom.core;

import java.io.File;

/** A device's partial copy of a family. */
public final class FamilyFolder {
  private final File folder;

  FamilyFolder(File folder) {
    this.folder = folder;
  }

  /** Where a file of the family lies. */
  public File path(BlobReference blob) {
    return new File(folder, blob.path);
  }
}
