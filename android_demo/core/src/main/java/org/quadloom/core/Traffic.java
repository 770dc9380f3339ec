package org.quadloom.core;

/** Bytes of blobs that came over the link, and the seconds that they took. */
final class Traffic {
  long downBytes;
  double downloadS;
}
