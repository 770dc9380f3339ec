package org.quadloom.core;

import static org.junit.Assert.assertTrue;
import static org.junit.Assert.fail;

import java.nio.charset.StandardCharsets;
import org.junit.Test;

/** Messages, manifests, tokenizers and addresses that the device must not follow. */
public final class RefusalsTest {
  private static final String ADAPTER =
      "{\"path\":\"a\",\"sha256\":\"" + hash() + "\",\"size_bytes\":1,\"media_type\":\"a/b\"}";
  private static final String ANSWER =
      "{\"schema_version\":1,\"task_state\":\"running\",\"retry_after_s\":1,\"reason\":\"r\",\"assignment\":{"
          + "\"schema_version\":1,\"assignment_id\":\"x\",\"task_id\":\"t\",\"round_index\":1,\"member\":"
          + "{\"depth\":1,\"quantized_layers\":0,\"recompute_percent\":0,\"format\":\"onnx\"},\"rank\":4,"
          + ("\"manifest_sha256\":\"" + hash() + "\",\"manifest_signature\":null,\"adapter\":" + ADAPTER)
          + ",\"blobs\":[],\"settings\":{\"optimizer\":\"adamw\"},\"deadline_s\":1,\"largest_staleness\":0,"
          + "\"retry_after_accepted_s\":1,\"retry_after_rejected_s\":1,\"reason\":\"r\"}}";

  @Test
  public void anAnswerAsTheServerWritesItIsTaken() throws Exception {
    assertTrue(Answers.checkedIn(bytes(ANSWER)).assignment.settings.isAdamW);
  }

  @Test
  public void anAnswerThatMeansSomethingElseIsRefused() {
    refuses(ANSWER.replace("\"adamw\"", "\"adamw\",\"prox\":1"), "unknown field prox");
    refuses(ANSWER.replace("adamw", "lion"), "lion");
    refuses(ANSWER.replace("\"path\":\"a\"", "\"path\":\"../a\""), "../a");
    refuses(ANSWER.replace("\"assignment_id\":\"x\"", "\"assignment_id\":\"x/../y\""), "x/../y");
    refuses(ANSWER.replace("\"retry_after_s\":1", "\"retry_after_s\":1e9"), "1.0E9");
    refuses(ANSWER.replace("{\"schema_version\":1,\"task", "{\"schema_version\":2,\"task"), "schema_version is 2");
    refuses(ANSWER.replace("\"quantized_layers\":0", "\"quantized_layers\":2"), "quantized_layers is 2");
  }

  @Test
  public void aManifestOfAnotherTaskIsRefused() {
    try {
      ManifestReader.read(bytes("{\"schema_version\":1,\"task\":{\"kind\":\"causal-lm\"}}"));
      fail("taken");
    } catch (QuadloomException expected) {
      assertTrue(expected.getMessage(), expected.getMessage().contains("causal-lm"));
    }
  }

  @Test
  public void anUnencryptedAddressOfAnotherMachineIsRefused() throws Exception {
    new ServerAddress("http://127.0.0.1:1", false);
    new ServerAddress("http://[::1]:1", false);
    new ServerAddress("http://fleet.example", true);
    for (String wrong : new String[] {"http://fleet.example", "http://10.0.0.2:8", "ftp://a", "fleet", "http://"}) {
      try {
        new ServerAddress(wrong, false);
      } catch (QuadloomException expected) {
        continue;
      }
      fail("taken: " + wrong);
    }
  }

  private static void refuses(String answer, String naming) {
    try {
      Answers.checkedIn(bytes(answer));
      fail("taken: " + answer);
    } catch (QuadloomException expected) {
      assertTrue(expected.getMessage(), expected.getMessage().contains(naming));
    }
  }

  private static String hash() {
    return new String(new char[64]).replace('\0', 'a');
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }
}
