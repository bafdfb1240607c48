// lse     = log Σ exp(logits)
// losses  = lse − logits[label], and 0 in rows whose label is −100; loss is their sum
// dlogits = (exp(logits − lse) − onehot(label))·g, and 0 in rows whose label is −100
#include "backend/reference/kernels.h"
#include "backend/reference/softmax_loss.h"

namespace lora::reference {

void Run(const CrossEntropyForwardArgs& args, Scratch, Context&) {
  const int64_t vocab = args.logits.dim(1);
  const int64_t count = CountLabels("cross_entropy", args.labels, vocab);
  if (!args.losses) RequireLabels("cross_entropy", count);
  Store(args.count, 0, static_cast<double>(count));
  double loss = 0;
  for (int64_t row = 0; row < args.logits.dim(0); ++row) {
    const Vector logits = LoadRange(args.logits, row * vocab, vocab);
    const double lse = LogSumExp(logits);
    const int32_t label = args.labels.as<int32_t>()[row];
    const bool counts = label != kIgnoredLabel;
    const double own = counts ? lse - logits[static_cast<size_t>(label)] : 0;
    loss += own;
    if (args.lse) Store(args.lse, row, lse);
    if (args.losses) Store(args.losses, row, own);
    if (args.entropies) Store(args.entropies, row, counts ? Entropy(logits, lse) : 0);
  }
  Store(args.loss, 0, loss);
}

void Run(const CrossEntropyBackwardArgs& args, Scratch, Context&) {
  const int64_t vocab = args.logits.dim(1);
  for (int64_t row = 0; row < args.logits.dim(0); ++row) {
    const double g = Load(args.g, args.g.numel() == 1 ? 0 : row);
    const int32_t label = args.labels.as<int32_t>()[row];
    const double lse = Load(args.lse, row);
    for (int64_t c = 0; c < vocab; ++c) {
      const int64_t i = row * vocab + c;
      const double softmax = std::exp(Load(args.logits, i) - lse);
      Store(args.dlogits, i, label == kIgnoredLabel ? 0 : (softmax - (c == label ? 1 : 0)) * g);
    }
  }
}

template PlannedCall Plan(const CrossEntropyForwardArgs&, int);
template PlannedCall Plan(const CrossEntropyBackwardArgs&, int);
}  // namespace lora::reference
