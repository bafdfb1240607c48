#include "backend/cuda/any_elements.h"
#include "backend/cuda/device/experts.cuh"
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.h"

namespace lora::cuda {
namespace {

// The choices of a token, of m assignments to n tokens.
int64_t ChoicesOf(int64_t m, int64_t n) { return n == 0 ? 1 : m / n; }

}  // namespace

void Run(const RouteForwardArgs& args, Scratch, Context& context) {
  const device::RouteParams route{Data<const float>(args.logits),
                                  Data<float>(args.weights),
                                  Data<int32_t>(args.experts),
                                  args.tokens(),
                                  args.count(),
                                  args.chosen,
                                  args.among_chosen};
  Launch<device::Route>("route", context, Blocks(route.tokens, device::RouteParams::kThreads),
                        route);
  const device::RoutePlacesParams places{
      Data<const int32_t>(args.experts), Data<int32_t>(args.order),   Data<int32_t>(args.places),
      Data<int32_t>(args.offsets),       args.tokens() * args.chosen, args.count()};
  Launch<device::RoutePlaces>("route", context, Blocks(args.count(), 1), places);
}

void Run(const RouteBackwardArgs& args, Scratch, Context& context) {
  const device::RouteBackwardParams params{Data<const float>(args.logits),
                                           Data<const int32_t>(args.experts),
                                           Data<const float>(args.g),
                                           Data<float>(args.d_logits),
                                           args.logits.dim(0),
                                           args.logits.dim(1),
                                           args.experts.dim(1),
                                           args.among_chosen};
  Launch<device::RouteBackward>(
      "route", context, Blocks(params.tokens, device::RouteBackwardParams::kThreads), params);
}

void Run(const SpreadRowsArgs& args, Scratch, Context& context) {
  const int64_t m = args.order.dim(0);
  const device::SpreadRowsParams params{Input("spread_rows", args.x),
                                        Data<const int32_t>(args.order),
                                        Data<const float>(args.weights),
                                        Output("spread_rows", args.y),
                                        m,
                                        args.x.dim(1),
                                        ChoicesOf(m, args.x.dim(0))};
  Launch<device::SpreadRows>("spread_rows", context, Blocks(m, 1), params);
}

void Run(const CombineRowsArgs& args, Scratch, Context& context) {
  const int64_t m = args.x.dim(0);
  const device::CombineRowsParams params{Input("combine_rows", args.x),
                                         Data<const int32_t>(args.places),
                                         Data<const float>(args.weights),
                                         Output("combine_rows", args.y),
                                         m,
                                         args.x.dim(1),
                                         args.chosen};
  Launch<device::CombineRows>("combine_rows", context, Blocks(m / args.chosen, 1), params);
}

void Run(const RowDotsArgs& args, Scratch, Context& context) {
  const int64_t m = args.x.dim(0);
  const device::RowDotsParams params{Input("row_dots", args.g),
                                     Input("row_dots", args.x),
                                     Data<const int32_t>(args.places),
                                     Data<float>(args.dots),
                                     m,
                                     args.x.dim(1),
                                     ChoicesOf(m, args.g.dim(0))};
  Launch<device::RowDots>("row_dots", context, Blocks(m, 1), params);
}

template PlannedCall Plan(const RouteForwardArgs&, int);
template PlannedCall Plan(const RouteBackwardArgs&, int);
template PlannedCall Plan(const SpreadRowsArgs&, int);
template PlannedCall Plan(const CombineRowsArgs&, int);
template PlannedCall Plan(const RowDotsArgs&, int);
}  // namespace lora::cuda
