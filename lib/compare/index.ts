/** The public names of lora-native/compare. */
export { compareMethods, sweep } from './compare';
export type { CompareBudget, CompareOptions, SweepOptions } from './options';
export type { MethodName, Setting, SweptRate, Variant } from './methods';
export type {
  ChosenRate,
  ComparedText,
  CompareEndEvent,
  CompareEvent,
  CompareStartEvent,
  CompareStepEvent,
  Comparison,
  ComparisonRow,
  HeldOutScores,
  RateEvent,
  Spread,
  Trial,
  TrialEvent,
  VariantEvent,
  VariantResult,
} from './results';
