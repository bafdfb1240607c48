/** What `npm test` leaves out (jest.config.everyday.cjs), and the reporter that says so at its end. */
module.exports = class LeftOut {
  /**
   * These run programs on dist/ in processes of their own, or kernels on the emulator, or test scripts/ and the documentation, or wait
   * for threads that compile grammars. Most of them see a change in lib/ only after a build.
   */
  static programs = [
    '/test/docs/',
    '/test/e2e/(acceptance|benchmark|chat_terminal|cli|cuda_\\w+|examples)\\.test\\.ts',
    '/test/lifecycle/',
    '/test/unit/(amx_check|cuda_build|cuda_report|gpu_check|grammars|json_schema_values|native_mutants|package_json|platforms|workflows)\\.test\\.ts',
  ];

  /**
   * Each of these takes longer than five seconds on two cores: shapes of whole models, disks that fail at every write, files of hundreds
   * of megabytes, training over again for every option. Run them by name while you change what they read.
   */
  static slow = [
    '/test/e2e/compare(_command)?\\.test\\.ts',
    '/test/e2e/(command_line(_options)?|crash_consistency|evaluate_task|full_training|html_report|hub|hub_model|memory_(estimate|peak))\\.test\\.ts',
    '/test/e2e/(combine_adapters|convert_adapter|convert_model|engine|engine_histories|gguf_(blocks|commands|files|model)|json_schema|methods|prompt_tuning|quantize_model|serve_(adapters|handler|limits|page|tools)|stochastic_rounding|trainer_best|trainer_resume|weight_formats)\\.test\\.ts',
    '/test/numerics/bench_cases\\.test\\.ts',
    '/test/unit/(dataset_files|encode_steps|fuzz|gguf_tokenizer|limits|zod_schemas)\\.test\\.ts',
  ];

  onRunComplete() {
    console.log(
      'npm test leaves out what runs on dist/ or the emulator, scripts/, docs/, and what is slow: npm run test:all runs all.',
    );
  }
};
