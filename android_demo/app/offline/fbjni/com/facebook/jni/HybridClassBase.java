package com.facebook.jni;

/** Base of Java classes that are C++ objects themselves. */
public abstract class HybridClassBase extends HybridData {}
