"""The Python side of peft.mjs: loads the adapter that Node wrote, prints its loss, trains a step, saves it for Node.

    pip install torch transformers peft
    python peft_roundtrip.py MODEL_DIR adapter-from-node adapter-from-python
"""

import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model_dir, adapter_dir, out_dir = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model_dir)
base = AutoModelForCausalLM.from_pretrained(model_dir, torch_dtype=torch.float32)
model = PeftModel.from_pretrained(base, adapter_dir, is_trainable=True)

ids = tokenizer("On Monday Danor sells three black eggs at the park.", return_tensors="pt").input_ids
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.0)
loss = model(input_ids=ids, labels=ids).loss
print(f"loss {loss.item():.5f}")
loss.backward()
optimizer.step()

model.save_pretrained(out_dir)
