// logits   = hidden·Wᵀ, computed one row at a time and never rounded
// d_hidden = (softmax(logits) − onehot(label))·W
// Loss and count are those of cross_entropy.
#include "backend/reference/kernels.h"
#include "backend/reference/softmax_loss.h"

namespace lora::reference {

void Run(const LinearCrossEntropyArgs& args, Scratch, Context&) {
  const int64_t dim = args.hidden.dim(1), vocab = args.weight.rows;
  const int64_t count = CountLabels("linear_cross_entropy", args.labels, vocab);
  RequireLabels("linear_cross_entropy", count);
  Store(args.count, 0, static_cast<double>(count));
  double loss = 0;
  for (int64_t row = 0; row < args.hidden.dim(0); ++row) {
    const int32_t label = args.labels.as<int32_t>()[row];
    Vector d_hidden(static_cast<size_t>(dim), 0.0);
    if (label != kIgnoredLabel) {
      const Vector hidden = LoadRange(args.hidden, row * dim, dim);
      Vector logits;
      for (int64_t token = 0; token < vocab; ++token) {
        logits.push_back(Dot(hidden, args.weight, token * dim));
      }
      const double lse = LogSumExp(logits);
      loss += lse - logits[static_cast<size_t>(label)];
      for (int64_t token = 0; args.d_hidden && token < vocab; ++token) {
        const double g =
            std::exp(logits[static_cast<size_t>(token)] - lse) - (token == label ? 1 : 0);
        for (int64_t c = 0; c < dim; ++c) {
          d_hidden[static_cast<size_t>(c)] += g * Load(args.weight, token * dim + c);
        }
      }
    }
    if (args.d_hidden) StoreRange(args.d_hidden, row * dim, d_hidden);
  }
  Store(args.loss, 0, loss);
}

template PlannedCall Plan(const LinearCrossEntropyArgs&, int);
}  // namespace lora::reference
