module runtime-loader

go 1.21
