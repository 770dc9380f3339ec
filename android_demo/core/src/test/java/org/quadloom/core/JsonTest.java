package org.quadloom.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.fail;

import java.nio.charset.StandardCharsets;
import org.junit.Test;

/** JSON that any two readers could read differently is refused, whatever else is taken comes out as it went in. */
public final class JsonTest {
  @Test
  public void whatPythonWritesIsReadAlike() throws Exception {
    for (JsonFields each : Vectors.cases("json")) {
      Object value = Json.parse(each.string("text").getBytes(StandardCharsets.UTF_8), 16);
      assertEquals(each.any("value"), value);
      assertEquals(value, Json.parse(Json.write(value).getBytes(StandardCharsets.UTF_8), 16));
    }
  }

  @Test
  public void ambiguousOrBrokenTextIsRefused() throws Exception {
    String[] wrong = {
      "", "{", "[1,]", "{\"a\":1,\"a\":2}", "{\"a\" 1}", "01", "1.", ".5", "+1", "1e", "NaN", "Infinity", "1e999",
      "'a'", "\"\\x\"", "\"\\ud800\"", "\"\\uDC00x\"", "\"\n\"", "tru", "nullx", "[1] 2", "[[[[[1]]]]]", "{1:2}", "\"a",
      "\"\\u00g0\"", "[1 2]", "\u00a01"
    };
    for (String text : wrong) {
      try {
        Json.parse(text.getBytes(StandardCharsets.UTF_8), 4);
      } catch (JsonException expected) {
        continue;
      }
      fail("taken: " + text);
    }
    try {
      Json.parse(new byte[] {'"', (byte) 0xc3, '"'}, 4);
      fail("taken: half a character");
    } catch (JsonException expected) {
      assertEquals("it is not UTF-8", expected.getMessage());
    }
  }
}
