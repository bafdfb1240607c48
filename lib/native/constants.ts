// Written by native/test/cpu/constants_test.cc from the headers of native/ that have these.

/** Blocks of ggml: so many neighboring values of a row are in so many bytes. */
export const blockSizes = {
  q4_0: { values: 32, bytes: 18 },
  q4_1: { values: 32, bytes: 20 },
  q5_0: { values: 32, bytes: 22 },
  q5_1: { values: 32, bytes: 24 },
  q8_0: { values: 32, bytes: 34 },
  q2_k: { values: 256, bytes: 84 },
  q3_k: { values: 256, bytes: 110 },
  q4_k: { values: 256, bytes: 144 },
  q5_k: { values: 256, bytes: 176 },
  q6_k: { values: 256, bytes: 210 },
  iq1_s: { values: 256, bytes: 50 },
  iq2_s: { values: 256, bytes: 82 },
  iq3_s: { values: 256, bytes: 110 },
  iq4_nl: { values: 32, bytes: 18 },
  iq4_xs: { values: 256, bytes: 136 },
  tq1_0: { values: 256, bytes: 54 },
  tq2_0: { values: 256, bytes: 66 },
  mxfp4: { values: 32, bytes: 17 },
} as const;

/** The formats of blocks that files are written in. */
export const writtenBlocks = ['q8_0', 'q5_0', 'q4_0', 'q4_k'] as const;

/** The values of the codes of 4 bits. */
export const codeValues = {
  nf4: [
    -1, -0.6961928, -0.52507305, -0.3949175,
    -0.28444138, -0.18477343, -0.091050036, 0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524,
    0.44070983, 0.562617, 0.72295684, 1,
  ],
  fp4: [
    0, 0.0052083335, 0.6666667, 1,
    0.33333334, 0.5, 0.16666667, 0.25,
    0, -0.0052083335, -0.6666667, -1,
    -0.33333334, -0.5, -0.16666667, -0.25,
  ],
} as const;

/** Values of the flattened matrix that share a scale of a 4-bit format. */
export const blockValues = 64;

/** Elements of a moment of AdamW8bit that share a scale. */
export const momentBlock = 256;

/** Positions of a page of keys and values. */
export const pageSize = 64;

/** The label that counts nothing, as in PyTorch and transformers. */
export const ignoredLabel = -100;

/** How many rows of exponentials the loss from hidden states keeps on the CPU, and of how many bytes. */
export const lossChunk = { bytes: 100663296, minRows: 16, maxRows: 512 } as const;

/** On a GPU: how many rows of logits it keeps, of how many bytes, in multiples of so many rows; and the bytes of a quantized matrix that it expands at once. LORA_CUDA_LOSS_BYTES sets other bytes. */
export const cudaLossChunk = { bytes: 167772160, minRows: 128, maxRows: 1024, rowStep: 64 } as const;

/** On a GPU: the bytes of values that quantized matrices of a call have beside each other. LORA_CUDA_EXPANSION_BYTES sets others. */
export const cudaExpansionBytes = 134217728;

/** On a GPU: the most rows of a product that reads codes of 4 bits, and expands them as it loads them. */
export const cudaCodedRows = 512;
