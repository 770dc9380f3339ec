package org.quadloom.core;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** What a device needs to know of a family; every path and number in it was checked. */
public final class Manifest {
  public final int layers;
  public final int numLabels;
  public final int loraRank;
  public final int batchSize;
  public final int sequenceLength;

  /** Every trainable tensor. */
  public final List<ParameterSpec> parameters;

  public final List<Member> members;
  public final List<BlobReference> tokenizer;

  /** One ExecuTorch program with every member as a method of its own, weights included; null where there is none. */
  public final BlobReference singleFile;

  private final Map<String, BlobReference> weights;

  Manifest(
      int layers,
      int numLabels,
      int loraRank,
      int batchSize,
      int sequenceLength,
      List<ParameterSpec> parameters,
      List<Member> members,
      List<BlobReference> tokenizer,
      BlobReference singleFile,
      Map<String, BlobReference> weights) {
    this.layers = layers;
    this.numLabels = numLabels;
    this.loraRank = loraRank;
    this.batchSize = batchSize;
    this.sequenceLength = sequenceLength;
    this.parameters = parameters;
    this.members = members;
    this.tokenizer = tokenizer;
    this.singleFile = singleFile;
    this.weights = weights;
  }

  /** The frozen weights that all members of a format share. */
  public BlobReference weights(String format) {
    return weights.get(format);
  }

  /** Graph, companions and weights of a member. */
  public List<BlobReference> graphFiles(Member member) {
    List<BlobReference> files = new ArrayList<>();
    files.add(member.graph);
    files.addAll(member.companions);
    files.add(weights(member.key.format));
    return files;
  }

  /** Rows of the parameter table that a member of this depth trains: its layers' adapters and the head. */
  public List<ParameterSpec> trainedParameters(int depth) {
    List<ParameterSpec> trained = new ArrayList<>();
    for (ParameterSpec row : parameters) {
      if (row.layer == ParameterSpec.HEAD || row.layer >= layers - depth) {
        trained.add(row);
      }
    }
    return trained;
  }
}
