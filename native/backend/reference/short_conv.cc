// With u = B·v of x = [B | C | v], or u = x, and z[t] = bias + Σ weight[:, k − 1 − j]·u[t − j]:
//   y = C·z, dC = g·z and dz = g·C,  or  y = silu(z) and dz = g·silu'(z)
//   du[t]      = Σ weight[:, k − 1 − j]·dz[t + j], of which dB = du·v and dv = du·B
//   dweight[j] = Σ dz[t]·u[t − (k − 1) + j],  dbias = Σ dz
#include <algorithm>

#include "backend/reference/kernels.h"
#include "backend/reference/kinds.h"
#include "backend/reference/rows.h"

namespace lora::reference {
namespace {

// One channel of a sequence.
template <class Args>
struct Channel {
  const Args& args;
  int64_t b, channel;
  int64_t s = args.x.dim(1), channels = args.weight.dim(0), taps = args.weight.dim(1);
  bool gated = args.kind == ShortConvKind::kGated;

  int64_t In(int64_t t, int64_t part) const {
    return (b * s + t) * args.x.dim(2) + part * channels + channel;
  }
  int64_t Out(int64_t t) const { return (b * s + t) * channels + channel; }
  double U(int64_t t) const {
    return gated ? Load(args.x, In(t, 0)) * Load(args.x, In(t, 2)) : Load(args.x, In(t, 0));
  }
  double Weight(int64_t tap) const { return Load(args.weight, channel * taps + tap); }
  double Bias() const { return args.bias ? Load(args.bias, channel) : 0; }
  int64_t Begin(int64_t t) const {
    if constexpr (requires { args.key_begin; })
      if (args.key_begin)
        return std::max<int64_t>(args.key_begin.template as<int32_t>()[b * s + t], 0);
    return 0;
  }
  // z of a token whose text begins at Begin(t).
  double Z(int64_t t) const {
    double z = Bias();
    for (int64_t j = taps - 1; j >= 0; --j)
      if (t - j >= Begin(t)) z += Weight(taps - 1 - j) * U(t - j);
    return z;
  }
  double Y(int64_t t, double z) const {
    if (gated) return Load(args.x, In(t, 1)) * z;
    const auto gate = gated::Silu::At(z);
    return gate.z * gate.s;
  }
};
}  // namespace

void Run(const ShortConvForwardArgs& args, Scratch, Context&) {
  for (int64_t b = 0; b < args.x.dim(0); ++b)
    for (int64_t c = 0; c < args.weight.dim(0); ++c) {
      const Channel<ShortConvForwardArgs> channel{args, b, c};
      for (int64_t t = 0; t < channel.s; ++t)
        Store(args.y, channel.Out(t), channel.Y(t, channel.Z(t)));
    }
}

void Run(const ShortConvBackwardArgs& args, Scratch, Context&) {
  const int64_t channels = args.weight.dim(0), taps = args.weight.dim(1);
  Vector dweight(static_cast<size_t>(channels * taps)), dbias(static_cast<size_t>(channels));
  for (int64_t b = 0; b < args.x.dim(0); ++b)
    for (int64_t c = 0; c < channels; ++c) {
      const Channel<ShortConvBackwardArgs> channel{args, b, c};
      Vector du(static_cast<size_t>(channel.s));
      for (int64_t t = 0; t < channel.s; ++t) {
        const double g = Load(args.g, channel.Out(t)), z = channel.Z(t);
        double dz;
        if (channel.gated) {
          dz = g * Load(args.x, channel.In(t, 1));
          if (args.dx) Store(args.dx, channel.In(t, 1), g * z);
        } else {
          const auto gate = gated::Silu::At(z);
          dz = g * gate.s * gate.slope;
        }
        dbias[static_cast<size_t>(c)] += dz;
        for (int64_t j = 0; j < taps && t - j >= channel.Begin(t); ++j) {
          du[static_cast<size_t>(t - j)] += channel.Weight(taps - 1 - j) * dz;
          dweight[static_cast<size_t>(c * taps + taps - 1 - j)] += dz * channel.U(t - j);
        }
      }
      if (!args.dx) continue;
      for (int64_t t = 0; t < channel.s; ++t) {
        const double d = du[static_cast<size_t>(t)];
        if (!channel.gated) {
          Store(args.dx, channel.In(t, 0), d);
          continue;
        }
        Store(args.dx, channel.In(t, 0), d * Load(args.x, channel.In(t, 2)));
        Store(args.dx, channel.In(t, 2), d * Load(args.x, channel.In(t, 0)));
      }
    }
  if (args.dweight) StoreRange(args.dweight, 0, dweight);
  if (args.dbias) StoreRange(args.dbias, 0, dbias);
}

void Run(const ShortConvAppendArgs& args, Scratch, Context&) {
  const int64_t s = args.x.dim(1), channels = args.weight.dim(0), kept = args.weight.dim(1) - 1;
  CheckSlots("short_conv_append", args.slots, args.lengths, args.pool.dim(0), s);
  for (int64_t b = 0; b < args.x.dim(0); ++b)
    for (int64_t c = 0; c < channels; ++c) {
      const Channel<ShortConvAppendArgs> channel{args, b, c};
      const int64_t first = args.lengths.as<const int32_t>()[b] - s;
      const int64_t row = args.slots.as<const int32_t>()[b] * kept;
      // u of the positions before the call and of its own.
      Vector u;
      for (int64_t i = 0; i < kept; ++i)
        u.push_back(first - kept + i < 0 ? 0 : Load(args.pool, (row + i) * channels + c));
      for (int64_t t = 0; t < s; ++t) u.push_back(channel.U(t));
      for (int64_t t = 0; t < s; ++t) {
        double z = channel.Bias();
        for (int64_t j = 0; j <= kept; ++j)
          if (first + t - kept + j >= 0) z += channel.Weight(j) * u[static_cast<size_t>(t + j)];
        Store(args.y, channel.Out(t), channel.Y(t, z));
      }
      for (int64_t i = 0; s > 0 && i < kept; ++i)
        Store(args.pool, (row + i) * channels + c, u[static_cast<size_t>(s + i)]);
    }
}

template PlannedCall Plan(const ShortConvForwardArgs&, int);
template PlannedCall Plan(const ShortConvBackwardArgs&, int);
template PlannedCall Plan(const ShortConvAppendArgs&, int);
}  // namespace lora::reference
