package org.quadloom.core;

/** Somebody wants the device to stop; unchecked, since it passes everybody but {@link DeviceLoop#run}. */
final class StoppedException extends RuntimeException {
  private static final long serialVersionUID = 1;
}
