package org.quadloom.core;

/** One text and its class, from 0. */
public final class Example {
  public final String text;
  public final int label;

  public Example(String text, int label) {
    this.text = text;
    this.label = label;
  }
}
