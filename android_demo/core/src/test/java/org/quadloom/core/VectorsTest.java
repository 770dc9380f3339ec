package org.quadloom.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Every number and token as the Python packages have it: numpy, tokenizers, safetensors, torch's AdamW, cryptography. */
public final class VectorsTest {
  @Test
  public void epochsGoThroughTheDataInNumpysOrder() throws Exception {
    for (JsonFields each : Vectors.cases("order")) {
      int[] labels = Vectors.integers(each, "labels");
      long seed = each.whole("seed", 0, Long.MAX_VALUE);
      int epoch = each.integer("epoch", 0, 1000);
      assertArrayEquals(Vectors.integers(each, "shuffled"), EpochOrder.shuffled(labels.length, seed, epoch));
      assertArrayEquals(Vectors.integers(each, "balanced"), EpochOrder.balanced(labels, seed, epoch));
    }
  }

  @Test
  public void textsBecomeTheTokensOfTheFamilysTokenizer() throws Exception {
    for (JsonFields tokenizer : Vectors.cases("tokens")) {
      byte[] file = tokenizer.string("tokenizer").getBytes(StandardCharsets.UTF_8);
      TextEncoder encoder = TokenizerFile.read(file, tokenizer.integer("length", 1, 1000));
      for (JsonFields text : tokenizer.objects("texts")) {
        EncodedData data = encoder.encode(Collections.singletonList(new Example(text.string("text"), 1)));
        assertArrayEquals(text.string("text"), Vectors.integers(text, "ids"), data.inputIds);
        int[] mask = new int[data.attentionMask.length];
        for (int i = 0; i < mask.length; i++) {
          mask[i] = data.attentionMask[i];
        }
        assertArrayEquals(text.string("text"), Vectors.integers(text, "mask"), mask);
        assertArrayEquals(text.string("text"), Vectors.integers(text, "types"), data.tokenTypeIds);
      }
    }
  }

  @Test
  public void everyCharacterIsCutAsTokenizersCutsIt() throws Exception {
    for (JsonFields each : Vectors.cases("characters")) {
      boolean isUncased = each.bool("uncased", true);
      BertText text = new BertText(true, true, isUncased, isUncased);
      List<?> words = each.array("words");
      int[] characters = Vectors.integers(each, "characters");
      for (int i = 0; i < characters.length; i++) {
        String around = "A" + new String(Character.toChars(characters[i])) + "b";
        assertEquals(Integer.toHexString(characters[i]), words.get(i), String.join(" ", text.words(around)));
      }
    }
  }

  @Test
  public void optimizersMakeTheStepsOfTorch() throws Exception {
    for (JsonFields each : Vectors.cases("optimizers")) {
      double decay = each.number("weight_decay", 0, 1);
      Optimizer optimizer = each.string("optimizer").equals("adamw") ? new AdamW(decay) : new Sgd(decay);
      float[] start = Vectors.floats(each, "start");
      Map<String, FloatTensor> parameters = new HashMap<>();
      parameters.put("p", tensor(start));
      Map<String, Double> rates = Collections.singletonMap("p", each.number("rate", 0, 1));
      for (JsonFields step : each.objects("steps")) {
        Map<String, FloatTensor> gradients = new HashMap<>();
        gradients.put("p", tensor(Vectors.floats(step, "gradient")));
        if (step.has("clip_norm")) {
          Gradients.clip(gradients, step.number("clip_norm", 0, 1e9));
        }
        optimizer.update(parameters, gradients, rates);
        float[] expected = Vectors.floats(step, "value");
        for (int i = 0; i < expected.length; i++) {
          assertEquals(expected[i], parameters.get("p").values()[i], 1e-6 * (1 + Math.abs(expected[i])));
        }
      }
      assertArrayEquals(Vectors.floats(each, "start"), start, 0);
    }
  }

  @Test
  public void tensorsOfSafetensorsAreReadAndWrittenAlike() throws Exception {
    byte[] file = Vectors.bytes("tensors.safetensors");
    SafeTensors found = SafeTensors.read(file, "the vector");
    JsonFields expected = Vectors.cases("tensors").get(0);
    for (String name : found.tensors.keySet()) {
      JsonFields tensor = expected.object("tensors").object(name);
      assertArrayEquals(tensor.wholes("shape", 0, 100), found.tensors.get(name).shape());
      assertArrayEquals(Vectors.floats(tensor, "values"), found.tensors.get(name).values(), 0);
    }
    assertEquals(expected.object("tensors").names().size(), found.tensors.size());
    assertEquals(expected.object("metadata").string("report"), found.metadata.get("report"));
    SafeTensors again = SafeTensors.read(found.write(), "the copy");
    assertEquals(found.metadata, again.metadata);
    Files.write(Vectors.file("written.safetensors").toPath(), found.write());
  }

  @Test
  public void everyCutTensorFileIsRefused() throws Exception {
    byte[] file = Vectors.bytes("tensors.safetensors");
    for (int size = 0; size < file.length; size++) {
      try {
        SafeTensors.read(Arrays.copyOf(file, size), "the vector");
        assertTrue("a file of " + size + " bytes was taken", false);
      } catch (QuadloomException expected) {
        assertTrue(expected.getMessage().contains("the vector"));
      }
    }
  }

  @Test
  public void signaturesAreThoseOfEd25519() throws Exception {
    for (JsonFields each : Vectors.cases("signatures")) {
      byte[] seed = bytes(each, "seed");
      byte[] message = bytes(each, "message");
      byte[] signature = bytes(each, "signature");
      byte[] key = Ed25519Pem.parsePublicKey(each.string("public_pem"), "the vector");
      assertArrayEquals(seed, Ed25519Pem.parsePrivateKey(each.string("private_pem"), "the vector"));
      assertEquals(each.string("private_pem"), Ed25519Pem.privateKey(seed));
      assertArrayEquals(key, Ed25519.publicKey(seed));
      assertArrayEquals(signature, Ed25519.sign(seed, message));
      assertTrue(Ed25519.verify(key, message, signature));
      for (int bit = 0; bit < 8 * signature.length; bit += 37) {
        byte[] altered = signature.clone();
        altered[bit / 8] ^= (byte) (1 << (bit % 8));
        assertFalse(Ed25519.verify(key, message, altered));
      }
      assertFalse(Ed25519.verify(key, Arrays.copyOf(message, message.length + 1), signature));
    }
  }

  @Test
  public void graphsThatReachForOtherFilesAreRefusedAsInPython() throws Exception {
    int safe = 0;
    for (JsonFields each : Vectors.cases("graphs")) {
      File graph = Vectors.file(each.string("graph"));
      boolean isSafe;
      try {
        OnnxGraphFile.check(graph, new File(graph.getParentFile(), "weights.bin"));
        isSafe = true;
      } catch (QuadloomException error) {
        isSafe = false;
      }
      assertEquals(graph.getName(), each.bool("is_safe", false), isSafe);
      safe += isSafe ? 1 : 0;
    }
    assertTrue(safe > 0);
  }

  @Test
  public void labelledTextsAreReadAsInPython() throws Exception {
    for (JsonFields each : Vectors.cases("examples")) {
      String expected = each.has("labels") ? Arrays.toString(Vectors.integers(each, "labels")) : "refused";
      assertEquals(each.string("content"), expected, labels(each.string("content")));
    }
  }

  @Test
  public void aLabelThatIsNoClassIsNamedWithItsLine() throws Exception {
    try {
      ExampleLines.read(bytes("{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\",\"label\":\"very\"}"));
      fail("taken");
    } catch (QuadloomException expected) {
      assertTrue(expected.getMessage(), expected.getMessage().startsWith("line 2.label is very, not a class index"));
    }
  }

  private static String labels(String content) {
    try {
      List<Integer> labels = new ArrayList<>();
      for (Example each : ExampleLines.read(bytes(content))) {
        labels.add(each.label);
      }
      return labels.toString();
    } catch (QuadloomException error) {
      return "refused";
    }
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  private static FloatTensor tensor(float[] values) {
    return new FloatTensor(new long[] {values.length}, values);
  }

  private static byte[] bytes(JsonFields fields, String name) throws JsonException {
    return Base64.getDecoder().decode(fields.string(name));
  }
}
