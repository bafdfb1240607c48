// For query i and the keys j that it sees, max(begin, i − window + 1) ≤ j ≤ i, or with key_end
// j < min(end, i + window):
//   s_j = scale·q_i·k_j
//   lse = log(Σ exp(s_j) + exp(sink)), where heads have sinks
//   p_j = exp(s_j − lse)
//   y   = Σ p_j·v_j
// A query that sees no key has y = 0 and lse = −∞, or the sink, and gives no gradient. Backward,
// with D = g·y:
//   dv_j += p_j·g
//   ds_j  = p_j·(g·v_j − D)
//   dq   += scale·ds_j·k_j
//   dk_j += scale·ds_j·q
#include "backend/reference/attention.h"

#include <algorithm>
#include <cmath>

#include "backend/reference/kernels.h"
#include "backend/reference/rows.h"

namespace lora::reference {
namespace {

// Gives forward and backward the offsets of the vectors of one (batch, query, head).
struct Place {
  const TensorView &q, &k;
  int64_t batch, query, head;

  int64_t size() const { return q.dim(3); }
  int64_t Query() const { return ((batch * q.dim(1) + query) * q.dim(2) + head) * size(); }
  int64_t Key(int64_t j) const {
    const int64_t kv_head = head / (q.dim(2) / k.dim(2));
    return ((batch * k.dim(1) + j) * k.dim(2) + kv_head) * size();
  }
  int64_t Lse() const { return (batch * q.dim(2) + head) * q.dim(1) + query; }
};

template <class Visit>
void EachPlace(const TensorView& q, const TensorView& k, const Visit& visit) {
  for (int64_t b = 0; b < q.dim(0); ++b)
    for (int64_t i = 0; i < q.dim(1); ++i)
      for (int64_t h = 0; h < q.dim(2); ++h) visit(Place{q, k, b, i, h});
}

// Returns the first key that a query sees.
int64_t FirstKey(const TensorView& key_begin, int64_t window, const Place& at) {
  int64_t first = 0;
  if (key_begin) {
    const int64_t begin = key_begin.as<int32_t>()[at.batch * at.q.dim(1) + at.query];
    first = std::max(first, begin);
  }
  return window > 0 ? std::max(first, at.query - window + 1) : first;
}

// Returns the last key that a query sees.
int64_t LastKey(const TensorView& key_end, int64_t window, const Place& at) {
  if (!key_end) return at.query;
  const int64_t end = key_end.as<int32_t>()[at.batch * at.q.dim(1) + at.query];
  const int64_t last = std::min(end, at.k.dim(1)) - 1;
  return window > 0 ? std::min(last, at.query + window - 1) : last;
}

}  // namespace

void Run(const AttentionForwardArgs& args, Scratch, Context&) {
  EachPlace(args.q, args.k, [&](const Place& at) {
    const double lse =
        Attend(args.q, args.k, args.v, args.y, at.Query(),
               FirstKey(args.key_begin, args.window, at), LastKey(args.key_end, args.window, at),
               args.scale, SinkOf(args.sinks, at.head), [&](int64_t j) { return at.Key(j); });
    if (args.lse) Store(args.lse, at.Lse(), lse);
  });
}

void Run(const AttentionBackwardArgs& args, Scratch, Context&) {
  Vector dk(static_cast<size_t>(args.dk.numel()), 0.0), dv = dk;
  EachPlace(args.q, args.k, [&](const Place& at) {
    const int64_t d = at.size();
    const Vector q = LoadRange(args.q, at.Query(), d), g = LoadRange(args.g, at.Query(), d);
    const double inner = Dot(g, args.y, at.Query()), lse = Load(args.lse, at.Lse());
    Vector dq(static_cast<size_t>(d), 0.0);
    const int64_t last = LastKey(args.key_end, args.window, at);
    for (int64_t j = FirstKey(args.key_begin, args.window, at); j <= last; ++j) {
      const double p = std::exp(args.scale * Dot(q, args.k, at.Key(j)) - lse);
      const double ds = args.scale * p * (Dot(g, args.v, at.Key(j)) - inner);
      for (int64_t c = 0; c < d; ++c) {
        const size_t column = static_cast<size_t>(c), key = static_cast<size_t>(at.Key(j) + c);
        dq[column] += ds * Load(args.k, at.Key(j) + c);
        dk[key] += ds * q[column];
        dv[key] += p * g[column];
      }
    }
    StoreRange(args.dq, at.Query(), dq);
  });
  StoreRange(args.dk, 0, dk);
  StoreRange(args.dv, 0, dv);
}

template PlannedCall Plan(const AttentionForwardArgs&, int);
template PlannedCall Plan(const AttentionBackwardArgs&, int);
}  // namespace lora::reference
