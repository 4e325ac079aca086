"""What proves trimode and is never shipped: doubles, chaos, router benchmarks, the tiny model's training."""
