"""What a sampling brings along: ControlNets and patches, each on the device where it belongs."""
