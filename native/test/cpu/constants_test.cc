// Holds lib/native/constants.ts, the numbers that both languages know, against the headers that
// have them. After a change of one, this writes the file anew:
//   LORA_WRITE_CONSTANTS=1 node scripts/ctest.mjs -R constants
#include <doctest/doctest.h>

#include <charconv>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "backend/cpu/logits/cross_entropy_rows.h"
#include "backend/cuda/expand.h"
#include "backend/cuda/linear_cross_entropy_plan.h"
#include "core/maths/dynamic_code.h"
#include "core/maths/quantize_blocks.h"
#include "core/ops/labels.h"
#include "core/ops/pages.h"

namespace lora::test {
namespace {

using Cuda = cuda::LinearCrossEntropyPlan;

constexpr const char* kFile = LORA_SOURCE_DIR "/lib/native/constants.ts";

// The shortest digits that are this f32.
std::string Digits(float value) {
  char text[32];
  return {text, std::to_chars(std::begin(text), std::end(text), value).ptr};
}

std::string BlockSizes() {
  std::ostringstream text;
  for (auto i = static_cast<size_t>(kFirstBlocks); i <= static_cast<size_t>(kLastBlocks); ++i)
    text << "  " << kFormats[i].name << ": { values: " << kFormats[i].block.values
         << ", bytes: " << kFormats[i].block.bytes << " },\n";
  return text.str();
}

std::string WrittenBlocks() {
  std::string text;
  for (const WeightFormat format : kWrittenBlocks)
    text += (text.empty() ? "'" : ", '") + std::string(NameOf(format)) + "'";
  return text;
}

std::string CodeValues() {
  std::ostringstream text;
  for (const WeightFormat format : {WeightFormat::kNF4, WeightFormat::kFP4}) {
    text << "  " << NameOf(format) << ": [";
    const CodeTable& codes = *TraitsOf(format).codes;
    for (size_t i = 0; i < kCodes; ++i)
      text << (i % 4 == 0 ? "\n    " : " ") << Digits(codes.values[i]) << ',';
    text << "\n  ],\n";
  }
  return text.str();
}

std::string FileText() {
  std::ostringstream text;
  text << "// Written by native/test/cpu/constants_test.cc from the headers of native/ that have "
          "these.\n"
          "\n/** Blocks of ggml: so many neighboring values of a row are in so many bytes. */\n"
          "export const blockSizes = {\n"
       << BlockSizes()
       << "} as const;\n"
          "\n/** The formats of blocks that files are written in. */\n"
          "export const writtenBlocks = ["
       << WrittenBlocks()
       << "] as const;\n"
          "\n/** The values of the codes of 4 bits. */\n"
          "export const codeValues = {\n"
       << CodeValues()
       << "} as const;\n"
          "\n/** Values of the flattened matrix that share a scale of a 4-bit format. */\n"
          "export const blockValues = "
       << kBlockValues
       << ";\n"
          "\n/** Elements of a moment of AdamW8bit that share a scale. */\n"
          "export const momentBlock = "
       << kDynamicBlock
       << ";\n"
          "\n/** Positions of a page of keys and values. */\n"
          "export const pageSize = "
       << kPageSize
       << ";\n"
          "\n/** The label that counts nothing, as in PyTorch and transformers. */\n"
          "export const ignoredLabel = "
       << kIgnoredLabel
       << ";\n"
          "\n/** How many rows of exponentials the loss from hidden states keeps on the CPU, and "
          "of how many bytes. */\n"
          "export const lossChunk = { bytes: "
       << cpu::kChunkBytes << ", minRows: " << cpu::kMinChunk << ", maxRows: " << cpu::kMaxChunk
       << " } as const;\n"
          "\n/** On a GPU: how many rows of logits it keeps, of how many bytes, in multiples of so "
          "many rows; and the bytes of a quantized matrix that it expands at once. "
          "LORA_CUDA_LOSS_BYTES sets other bytes. */\n"
          "export const cudaLossChunk = { bytes: "
       << Cuda::kLossBytes << ", minRows: " << Cuda::kMinChunk << ", maxRows: " << Cuda::kMaxChunk
       << ", rowStep: " << Cuda::kRowStep
       << " } as const;\n"
          "\n/** On a GPU: the bytes of values that quantized matrices of a call have beside each "
          "other. "
          "LORA_CUDA_EXPANSION_BYTES sets others. */\n"
          "export const cudaExpansionBytes = "
       << cuda::kExpansionBytes
       << ";\n"
          "\n/** On a GPU: the most rows of a product that reads codes of 4 bits, and expands them "
          "as it "
          "loads them. */\n"
          "export const cudaCodedRows = "
       << cuda::kMaxCodedRows << ";\n";
  return text.str();
}

TEST_CASE("TypeScript knows the numbers of the kernels") {
  const std::string text = FileText();
  if (std::getenv("LORA_WRITE_CONSTANTS") != nullptr) std::ofstream(kFile) << text;
  std::ifstream file(kFile);
  std::ostringstream written;
  written << file.rdbuf();
  INFO("LORA_WRITE_CONSTANTS=1 node scripts/ctest.mjs -R constants writes ", kFile, " anew");
  CHECK(written.str() == text);
}

}  // namespace
}  // namespace lora::test
