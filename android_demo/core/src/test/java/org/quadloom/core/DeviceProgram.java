package org.quadloom.core;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.time.Clock;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A device as a program, for tests that start real processes. Reads a JSON file of settings, prints its events as JSON
 * lines, and ends with status 0 (finished), 3 (stopped) or 1 (an error, printed as the event {@code error}).
 */
final class DeviceProgram implements TrainingProgress {
  private final JsonFields settings;
  private DeviceLoop loop;
  private int steps;

  private DeviceProgram(JsonFields settings) {
    this.settings = settings;
  }

  public static void main(String[] arguments) throws Exception {
    byte[] content = Files.readAllBytes(Paths.get(arguments[0]));
    System.exit(new DeviceProgram(JsonFields.of(Json.parse(content, 4), "settings")).run());
  }

  private int run() throws Exception {
    List<String> command = new ArrayList<>();
    for (Object word : settings.array("step_command")) {
      command.add((String) word);
    }
    DeviceSettings device =
        new DeviceSettings(settings.string("server"), settings.string("name"), settings.whole("memory_limit_bytes", 1, 1L << 40));
    device.enrolmentToken = settings.stringOrNull("enrolment_token");
    device.familyKeyPem = settings.stringOrNull("family_key_pem");
    device.rank = settings.integer("rank", 0, 1000, 0);
    device.checkpointEveryS = settings.number("checkpoint_every_s", 0, 1e9, 10);
    device.patienceS = settings.number("patience_s", 0, 1e9, 60);
    Clock clock = Clock.offset(Clock.systemUTC(), Duration.ofSeconds(settings.integer("clock_offset_s", -1 << 30, 1 << 30, 0)));
    List<Example> examples = ExampleLines.read(Files.readAllBytes(Paths.get(settings.string("data"))));
    String firstError = settings.stringOrNull("first_error");
    Class<?> kind = firstError == null ? null : Class.forName(firstError);
    Error thrown = kind == null ? null : (Error) kind.getDeclaredConstructor().newInstance();
    StepRuntimeFactory runtimes = new ProcessRuntime.Factory(command, thrown);
    try {
      File folder = new File(settings.string("folder"));
      loop = new DeviceLoop(device, folder, examples, runtimes, this, clock);
      return loop.run() == DeviceLoop.End.FINISHED ? 0 : 3;
    } catch (QuadloomException error) {
      said("error", error.getMessage());
      return 1;
    }
  }

  @Override
  public void said(String event, String line) {
    Map<String, Object> fields = new LinkedHashMap<>();
    fields.put("event", event);
    fields.put("line", line);
    print(fields);
  }

  @Override
  public void stepped(int roundIndex, int step, int ofSteps, double loss, long peakStepBytes) {
    Map<String, Object> fields = new LinkedHashMap<>();
    fields.put("event", "step");
    fields.put("round_index", roundIndex);
    fields.put("step", step);
    fields.put("loss", loss);
    fields.put("peak_step_bytes", peakStepBytes);
    print(fields);
    steps++;
    try {
      if (steps == settings.integer("stop_after_steps", 0, 1 << 30, 0)) {
        loop.stop();
      }
      if (steps == settings.integer("die_after_steps", 0, 1 << 30, 0)) {
        Runtime.getRuntime().halt(137);
      }
    } catch (JsonException error) {
      throw new IllegalArgumentException(error);
    }
  }

  private static void print(Map<String, Object> fields) {
    byte[] line = (Json.write(fields) + "\n").getBytes(StandardCharsets.UTF_8);
    System.out.write(line, 0, line.length);
    System.out.flush();
  }
}
