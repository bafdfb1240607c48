/** The public names of lora-native/compare. */
export { compareMethods } from './compare';
export type { CompareBudget, CompareOptions } from './options';
export type { MethodName, Setting, Variant } from './methods';
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
