package org.quadloom.core;

import java.util.List;

/** One training graph of a family. */
public final class Member {
  public final MemberKey key;
  public final BlobReference graph;

  /** Further files that this member alone needs. */
  public final List<BlobReference> companions;

  /** Planned peak memory of one step, without the weights. */
  public final long plannedPeakBytes;

  /** Inputs of the graph, in its order. */
  public final List<TensorSpec> inputs;

  /** Outputs of the graph, in its order. */
  public final List<TensorSpec> outputs;

  public Member(
      MemberKey key,
      BlobReference graph,
      List<BlobReference> companions,
      long plannedPeakBytes,
      List<TensorSpec> inputs,
      List<TensorSpec> outputs) {
    this.key = key;
    this.graph = graph;
    this.companions = companions;
    this.plannedPeakBytes = plannedPeakBytes;
    this.inputs = inputs;
    this.outputs = outputs;
  }
}
