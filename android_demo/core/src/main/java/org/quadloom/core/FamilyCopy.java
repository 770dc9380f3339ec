package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashSet;
import java.util.List;

/** The files of a family that assignments need: fetched once, and checked before each use. */
final class FamilyCopy {
  private static final byte[] SIGNATURE_CONTEXT = "quadloom family manifest v1\n".getBytes(StandardCharsets.US_ASCII);
  private static final String TOKENIZER = "tokenizer.json";

  final FamilyFolder files;
  final BlobCache cache;
  private final ServerClient client;
  private final TrainingProgress progress;
  private final byte[] familyKey;

  /** @param familyKey 32 bytes: whose signature a family must have; null for no matter who made it */
  FamilyCopy(File folder, ServerClient client, TrainingProgress progress, byte[] familyKey) {
    this.files = new FamilyFolder(new File(folder, "family"));
    this.cache = new BlobCache(new File(folder, "blobs"));
    this.client = client;
    this.progress = progress;
    this.familyKey = familyKey;
  }

  /** The manifest of this hash, once whoever must vouch for it does. */
  Manifest manifest(String sha256, String signature) throws QuadloomException {
    bring(sha256, "the manifest", ManifestReader.LARGEST_BYTES);
    byte[] content = read(cache.path(sha256));
    if (familyKey != null) {
      verify(content, signature);
    }
    return ManifestReader.read(content);
  }

  /** What the assignment's member is in a manifest whose files the assignment names. */
  Member member(Assignment assignment, Manifest manifest) throws QuadloomException {
    for (Member member : manifest.members) {
      if (member.key.equals(assignment.member)) {
        List<BlobReference> expected = manifest.graphFiles(member);
        expected.addAll(manifest.tokenizer);
        // Only the manifest says which files make a member: it may be signed, an assignment is not.
        if (!new HashSet<>(expected).equals(new HashSet<>(assignment.blobs))) {
          throw new QuadloomException(
              "the assignment names other files than the manifest has for " + member.key.label(),
              "do not trust this server before its owner can say why");
        }
        return member;
      }
    }
    throw new QuadloomException(
        "the manifest has no member " + assignment.member.label(), "check the server and its family");
  }

  /** Bring files to their places in the family's folder. */
  void bring(List<BlobReference> blobs) throws QuadloomException {
    for (BlobReference blob : blobs) {
      bring(blob.sha256, blob.path, blob.sizeBytes);
      cache.linkInto(files, blob);
    }
  }

  /** The tensors that an assignment starts from: every row of the table, in its shape. */
  SafeTensors adapter(Assignment assignment, List<ParameterSpec> table) throws QuadloomException {
    bring(assignment.adapter.sha256, "the adapter", assignment.adapter.sizeBytes);
    SafeTensors adapter = SafeTensors.read(read(cache.path(assignment.adapter.sha256)), "the adapter");
    for (ParameterSpec row : table) {
      FloatTensor tensor = adapter.tensors.get(row.name);
      if (tensor == null || !Arrays.equals(tensor.shape(), row.shape)) {
        throw new QuadloomException(
            "the adapter has no tensor " + row.name + " of shape " + Arrays.toString(row.shape),
            "check the server and its state");
      }
    }
    if (adapter.tensors.size() != table.size()) {
      throw new QuadloomException(
          "the adapter has " + adapter.tensors.size() + " tensors, the family trains " + table.size(),
          "check the server and its state");
    }
    return adapter;
  }

  /** What encodes texts for this family. */
  TextEncoder encoder(Manifest manifest) throws QuadloomException {
    BlobReference file = tokenizer(manifest);
    bring(Arrays.asList(file));
    return TokenizerFile.read(read(files.path(file)), manifest.sequenceLength);
  }

  /** The file that the tokenizer is read from. */
  static BlobReference tokenizer(Manifest manifest) throws QuadloomException {
    for (BlobReference blob : manifest.tokenizer) {
      boolean isTokenizer = blob.path.equals(TOKENIZER) || blob.path.endsWith("/" + TOKENIZER);
      if (isTokenizer && blob.sizeBytes <= TokenizerFile.LARGEST_BYTES) {
        return blob;
      }
    }
    throw new QuadloomException("the family names no tokenizer.json of usual size", "export the family again");
  }

  /** Bytes that are here, unfinished downloads included. */
  long sizeHere(Assignment assignment, List<BlobReference> blobs) {
    List<BlobReference> all = new ArrayList<>(blobs);
    all.add(assignment.adapter);
    long size = 0;
    for (BlobReference blob : new HashSet<>(all)) {
      size += cache.sizeHere(blob.sha256);
    }
    return size;
  }

  private void bring(String sha256, String name, long largestBytes) throws QuadloomException {
    if (!cache.holds(sha256)) {
      progress.said("downloading", "downloading " + name);
      client.download(sha256, cache, largestBytes);
    }
  }

  private void verify(byte[] content, String signature) throws QuadloomException {
    if (signature == null) {
      throw new QuadloomException(
          "the server's manifest is not signed", "sign it with `quadloom export --signing-key FILE`");
    }
    byte[] signed = Arrays.copyOf(SIGNATURE_CONTEXT, SIGNATURE_CONTEXT.length + content.length);
    System.arraycopy(content, 0, signed, SIGNATURE_CONTEXT.length, content.length);
    boolean isRight;
    try {
      isRight = Ed25519.verify(familyKey, signed, Base64.getDecoder().decode(signature));
    } catch (IllegalArgumentException error) {
      isRight = false;
    }
    if (!isRight) {
      throw new QuadloomException(
          "the signature of the server's manifest is not one of it by the family key",
          "do not use it: get it again from whoever holds the key, and the key from them too");
    }
  }

  private static byte[] read(File file) throws QuadloomException {
    try {
      return Files.readAllBytes(file.toPath());
    } catch (IOException error) {
      throw DurableFiles.failed(file, error);
    }
  }
}
