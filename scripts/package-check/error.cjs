// What a program gets where no binary is found: prints it as JSON.
const { LoRAError, tensor } = require('lora-native');

try {
  tensor([1]);
  console.log('{"code":"none: it works"}');
} catch (error) {
  console.log(JSON.stringify({ code: error instanceof LoRAError && error.code, message: error.message }));
}
