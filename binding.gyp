# A shim for node-gyp, node-gyp-build and prebuildify: CMake (scripts/build.mjs) builds the add-on.
{
  "targets": [
    {
      "target_name": "lora_native",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/lora_native.node"],
          "action": ["node", "scripts/build.mjs"]
        }
      ]
    }
  ]
}
