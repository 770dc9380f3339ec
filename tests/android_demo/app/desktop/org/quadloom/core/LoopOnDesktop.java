package org.quadloom.core;

import java.io.File;
import java.nio.file.Files;
import org.quadloom.app.runtimes.InstalledRuntimes;

/** The device loop as the app runs it: {@code SERVER TOKEN FOLDER DATA}. Says what happens, a line each. */
public final class LoopOnDesktop {
  public static void main(String[] arguments) throws Exception {
    DeviceSettings settings = new DeviceSettings(arguments[0], "desktop", 1_000_000_000L);
    settings.enrolmentToken = arguments[1];
    DeviceLoop loop =
        new DeviceLoop(
            settings,
            new File(arguments[2]),
            ExampleLines.read(Files.readAllBytes(new File(arguments[3]).toPath())),
            new InstalledRuntimes(),
            new Printer());
    System.out.println("ended " + loop.run());
  }

  private static final class Printer implements TrainingProgress {
    @Override
    public void said(String event, String line) {
      System.out.println(event + " " + line);
    }

    @Override
    public void stepped(int roundIndex, int step, int steps, double loss, long peakStepBytes) {
      System.out.println("step " + roundIndex + " " + step + " " + steps + " " + loss);
    }
  }
}
