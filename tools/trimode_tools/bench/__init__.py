"""`trimode bench`: static points against the policy, in the engine alone and through the router."""
