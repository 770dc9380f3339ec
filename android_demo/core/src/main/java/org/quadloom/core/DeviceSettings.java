package org.quadloom.core;

/**
 * What kind of device this is, and whom it works for. Set what differs from the defaults, then hand it to
 * {@link DeviceLoop}; what is wrong is refused by it or by the server, which names the value.
 */
public final class DeviceSettings {
  /** Address of {@code quadloom serve}, {@code https://HOST:PORT}. */
  public final String server;

  /** What people call the device: 1 to 64 letters, digits, dots, dashes and underscores. */
  public final String name;

  /** What one training step may allocate beyond the loaded, idle runtime. */
  public final long memoryLimitBytes;

  /** Threads that the runtime uses. */
  public int threads = 1;

  /** Lets the device in where its key is not known yet; null for none. */
  public String enrolmentToken;

  /** PEM of the key whose signature a family must have; null takes any family. */
  public String familyKeyPem;

  /** Speak http:// also with other machines: everybody on the way can read and alter what is sent. */
  public boolean allowUnencryptedHttp;

  /** Name of the kind of device, for people. */
  public String profile = "android";

  /** How much longer a step takes than on the machine that measured the family; a first estimate. */
  public double slowdown = 1;

  /** LoRA rank at which it trains; 0 for the family's. */
  public int rank;

  /** Seconds of training after which progress is kept. */
  public double checkpointEveryS = 10;

  /** Seconds for which requests may fail in a row. */
  public double patienceS = 120;

  public DeviceSettings(String server, String name, long memoryLimitBytes) {
    this.server = server;
    this.name = name;
    this.memoryLimitBytes = memoryLimitBytes;
  }
}
