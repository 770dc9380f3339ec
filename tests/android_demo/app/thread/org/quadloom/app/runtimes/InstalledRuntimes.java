package org.quadloom.app.runtimes;

import java.util.Collections;
import java.util.List;
import org.quadloom.core.BlobReference;
import org.quadloom.core.FamilyFolder;
import org.quadloom.core.Manifest;
import org.quadloom.core.Member;
import org.quadloom.core.StepRuntime;
import org.quadloom.core.StepRuntimeFactory;

/** None: the thread under test comes no further than its data. */
public final class InstalledRuntimes implements StepRuntimeFactory {
  @Override
  public List<String> formats() {
    return Collections.emptyList();
  }

  @Override
  public List<BlobReference> filesFor(Manifest manifest, Member member) {
    return Collections.emptyList();
  }

  @Override
  public StepRuntime open(Manifest manifest, Member member, FamilyFolder files, int threads) {
    throw new UnsupportedOperationException();
  }
}
