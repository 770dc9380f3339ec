package org.quadloom.core;

import java.util.List;

/** Opens the members that a device can train. */
public interface StepRuntimeFactory {
  /** Formats whose members it opens, the preferred one first: {@code "executorch"}, {@code "onnx"}. */
  List<String> formats();

  /**
   * The files of the manifest that {@link #open} needs for a member: {@link Manifest#graphFiles} gives graph, companions
   * and weights; a runtime that takes no data file beside its program names {@link Manifest#singleFile}.
   *
   * @throws QuadloomException this family does not hold what it needs
   */
  List<BlobReference> filesFor(Manifest manifest, Member member) throws QuadloomException;

  /**
   * Load a member.
   *
   * @param files those of {@link #filesFor}, each with its hash checked, at their paths in the family's folder
   * @param threads threads that it may use
   * @throws StepOutOfMemoryException loading did not fit the memory
   * @throws QuadloomException it cannot be loaded
   */
  StepRuntime open(Manifest manifest, Member member, FamilyFolder files, int threads) throws QuadloomException;
}
