// logits   = scale·f(hidden·Wᵀ), computed one row at a time and never rounded
// d_hidden = scale·(softmax(logits) − onehot(label))·f′·W
// f(x) = x, or cap·tanh(x/cap).
// What is said of rows, loss and count are those of cross_entropy.
#include "backend/reference/kernels.h"
#include "backend/reference/softmax_loss.h"

namespace lora::reference {

void Run(const LinearCrossEntropyArgs& args, Scratch, Context&) {
  const int64_t dim = args.hidden.dim(1), vocab = args.weight.rows;
  const int64_t count = CountLabels("linear_cross_entropy", args.labels, vocab);
  if (!args.losses) RequireLabels("linear_cross_entropy", count);
  Store(args.count, 0, static_cast<double>(count));
  double loss = 0;
  for (int64_t row = 0; row < args.hidden.dim(0); ++row) {
    const int32_t label = args.labels.as<int32_t>()[row];
    Vector d_hidden(static_cast<size_t>(dim), 0.0);
    double own = 0, entropy = 0;
    if (label != kIgnoredLabel) {
      const Vector hidden = LoadRange(args.hidden, row * dim, dim);
      Vector logits, slopes;
      for (int64_t token = 0; token < vocab; ++token) {
        const double x = Dot(hidden, args.weight, token * dim);
        const double capped = args.cap == 0 ? 0 : std::tanh(x / args.cap);
        logits.push_back(args.scale * (args.cap == 0 ? x : args.cap * capped));
        slopes.push_back(args.scale * (1 - capped * capped));
      }
      const double lse = LogSumExp(logits);
      own = lse - logits[static_cast<size_t>(label)];
      if (args.entropies) entropy = Entropy(logits, lse);
      for (int64_t token = 0; args.d_hidden && token < vocab; ++token) {
        const double g =
            std::exp(logits[static_cast<size_t>(token)] - lse) - (token == label ? 1 : 0);
        for (int64_t c = 0; c < dim; ++c) {
          d_hidden[static_cast<size_t>(c)] +=
              slopes[static_cast<size_t>(token)] * g * Load(args.weight, token * dim + c);
        }
      }
    }
    loss += own;
    if (args.d_hidden) StoreRange(args.d_hidden, row * dim, d_hidden);
    if (args.losses) Store(args.losses, row, own);
    if (args.entropies) Store(args.entropies, row, entropy);
  }
  Store(args.loss, 0, loss);
}

template PlannedCall Plan(const LinearCrossEntropyArgs&, int);
}  // namespace lora::reference
