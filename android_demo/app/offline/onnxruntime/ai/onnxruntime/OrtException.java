package ai.onnxruntime;

/** Signature only. */
public class OrtException extends Exception {}
