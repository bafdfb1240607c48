/** The public names of lora-native/train. */
export { Trainer } from './trainer';
export type { EarlyStopping } from './best';
export type { LogName } from './logs/names';
export type { ScheduleName, TrainerOptions } from './options';
export type {
  CheckpointEvent,
  EndEvent,
  EvalEvent,
  RunOptions,
  StartEvent,
  StepEvent,
  TrainerEvent,
  TrainerResult,
} from './events';
