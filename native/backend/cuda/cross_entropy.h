// Works on rows of logits on the device, for cross_entropy and linear_cross_entropy.
#pragma once

#include <cstdint>

#include "core/ops/backend.h"

namespace lora::cuda {

struct LogitRows {
  void* logits = nullptr;  // [rows, vocab] f32 or bf16
  DType dtype = DType::kF32;
  int64_t rows = 0, vocab = 0, pitch = 0;  // pitch in elements
  const int32_t* labels = nullptr;         // [rows]; −100 does not count
};

// losses [rows] ← lse − logits[label], 0 where the row does not count. lse [rows] may be null; in
// rows that do not count, it is written only with every_lse.
void SoftmaxLoss(const char* op, const LogitRows& rows, double* losses, float* lse, bool every_lse,
                 Context& context);

// What a product of logits left of rows (GemmLogits), and how large its parts are.
struct RowParts {
  float* parts = nullptr;         // [rows, count] of three f32
  float* label_logits = nullptr;  // [rows]
  int64_t count = 0;              // of a row
  int64_t columns = 0;            // of a part
};

// loss [1] ← Σ losses in a fixed order,  count [1] ← counted
void SumLosses(const char* op, const double* losses, int64_t rows, int64_t counted, float* loss,
               float* count, Context& context);

// losses_to ← the losses of the rows, entropies_to ← Σ p·(lse − logits) of p = exp(logits − lse),
// each 0 where the row does not count. Row i goes to place list[i], or to i without a list.
struct RowValues {
  const double* losses = nullptr;
  const float* lse = nullptr;
  const int32_t* list = nullptr;
  float* losses_to = nullptr;  // null where nobody wants them, as is entropies_to
  float* entropies_to = nullptr;
};
void StoreRowValues(const char* op, const LogitRows& rows, const RowValues& values,
                    Context& context);

// Gives the losses and values of rows that all count, from what their product left. After it the
// parts have what RowGradient needs of them, with `scale` the gradient's and `cap` the logits'.
void RowLoss(const char* op, const RowParts& parts, int64_t rows, float scale, float cap,
             double* losses, const RowValues& values, Context& context);

// exponentials [rows, vocab] bf16 ← scale·(exp(logits − lse) − onehot(label))·slope, of rows that
// all count.
void RowGradient(const char* op, const RowParts& parts, const LogitRows& exponentials,
                 Context& context);

// dlogits ← (exp(logits − lse) − onehot(label))·g·scale, 0 in rows that do not count, in the dtype
// of the logits.
struct LogitGradients {
  const float* g = nullptr;  // [1], or null: 1
  int64_t g_step = 0;        // 1: g is [rows]
  float scale = 1;
  float cap = 0;            // of the logits, by whose slope dlogits are multiplied; 0: none
  void* dlogits = nullptr;  // [rows, vocab]
  int64_t pitch = 0;
};
void SoftmaxGradient(const char* op, const LogitRows& rows, const float* lse,
                     const LogitGradients& gradients, Context& context);

}  // namespace lora::cuda
