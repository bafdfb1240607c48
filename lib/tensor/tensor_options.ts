/** What the methods of tensors take and give beside tensors. */

/** What data() gives: the values as floats, or as integers for i32. */
export type TensorValues = Float32Array | Int32Array;

/** A number, or lists of numbers of one length, or lists of those. */
export type NestedNumbers = number | readonly NestedNumbers[];

/** The options of {@link Tensor.crossEntropy}. */
export interface CrossEntropyOptions {
  /** 'mean' is over the labels that count; 'none' keeps the loss of each label, 0 where it is −100. Default 'mean'. */
  reduction?: 'mean' | 'sum' | 'none' | undefined;
}

/** Which dimensions sum() and mean() take together. */
export interface ReduceOptions {
  /** The dimension or dimensions to sum over, negative ones from the end; default: all. */
  dim?: number | readonly number[] | undefined;
  /** Keeps them as dimensions of 1. */
  keepDim?: boolean | undefined;
}

/** Which dimension max() and argmax() search. */
export interface MaxOptions {
  /** The dimension, a negative one from the end; default: all elements, in row-major order. */
  dim?: number | undefined;
  /** Keeps what was searched as dimensions of 1. */
  keepDim?: boolean | undefined;
}

/** Along which dimension a method works. */
export interface DimOptions {
  /** The dimension, a negative one from the end. Default: the last one of softmax, logSoftmax and gather, the first one of the others. */
  dim?: number | undefined;
}
