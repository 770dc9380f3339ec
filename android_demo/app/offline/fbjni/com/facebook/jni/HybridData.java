package com.facebook.jni;

import com.facebook.soloader.nativeloader.NativeLoader;
import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;
import java.util.Collections;
import java.util.HashSet;
import java.util.Set;

/**
 * Owns a C++ object and deletes it when it is reset, or itself collected.
 *
 * <p>libfbjni.so finds names and types of the fields here, and of {@link Destructor}, by reflection.
 */
public class HybridData {
  static {
    NativeLoader.loadLibrary("fbjni");
  }

  private final Destructor mDestructor = new Destructor(this);

  /** Delete the C++ object now. */
  public synchronized void resetNative() {
    mDestructor.delete();
  }

  /** Whether there still is one. */
  public boolean isValid() {
    return mDestructor.mNativePointer != 0;
  }

  /** Knows the C++ object of a {@link HybridData} beyond that one's life. */
  public static class Destructor extends PhantomReference<HybridData> {
    private static final ReferenceQueue<HybridData> COLLECTED = new ReferenceQueue<>();
    // A reference that is itself collected is never enqueued.
    private static final Set<Destructor> ALIVE = Collections.synchronizedSet(new HashSet<Destructor>());

    static {
      Thread cleaner =
          new Thread("HybridData cleaner") {
            @Override
            public void run() {
              deleteCollected();
            }
          };
      cleaner.setDaemon(true);
      cleaner.start();
    }

    private volatile long mNativePointer;

    Destructor(HybridData owner) {
      super(owner, COLLECTED);
      ALIVE.add(this);
    }

    synchronized void delete() {
      ALIVE.remove(this);
      long pointer = mNativePointer;
      mNativePointer = 0;
      if (pointer != 0) {
        deleteNative(pointer);
      }
    }

    private static void deleteCollected() {
      while (true) {
        try {
          ((Destructor) COLLECTED.remove()).delete();
        } catch (InterruptedException ignored) {
          // Nobody who knows this thread wants it to end.
        }
      }
    }

    static native void deleteNative(long pointer);
  }
}
