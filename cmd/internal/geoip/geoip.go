// Package geoip promises where a network address is, as a database on disk has it: any file in the MaxMind DB format that
// gives places or countries. A file that is replaced is read again while the process runs.
package geoip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/berthhq/berth/events"
	"github.com/berthhq/berth/tokens"
)

// Bounds of a database.
const (
	// MaxSize is the size in bytes that a file may have: it is held in memory, twice while it is replaced. A mapped file
	// would end the process if somebody wrote into it.
	MaxSize = 512 << 20
	// checkEvery is how often the file is looked at.
	checkEvery = time.Minute
	// sampled is how many networks are looked at for something to go by.
	sampled = 10_000
)

// Config says what database to use.
type Config struct {
	// Path is the file. Empty: there is none, and nobody is anywhere.
	Path string
	// Log takes what an operator should know. nil: discarded.
	Log *slog.Logger
}

// DB is a database. It is safe for concurrent use.
type DB struct {
	path      string
	log       *slog.Logger
	countries map[string]events.Location
	content   atomic.Pointer[maxminddb.Reader]
	// seen is the file as it was last looked at. Only Run's goroutine uses it, after Open.
	seen fs.FileInfo
}

var _ tokens.Locator = (*DB)(nil)

// Open reads the file. It fails if that is no database that says where addresses are.
func Open(c Config) (*DB, error) {
	if c.Path == "" {
		return &DB{}, nil
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	countries, err := centroids()
	if err != nil {
		return nil, err
	}
	d := &DB{path: c.Path, log: c.Log, countries: countries}
	return d, d.load()
}

// Run reads the file again whenever it has been replaced, until ctx ends. One that cannot be used leaves the one before in
// force.
func (d *DB) Run(ctx context.Context) error {
	if d.path == "" {
		<-ctx.Done()
		return nil
	}
	ticks := time.NewTicker(checkEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		if !d.changed() {
			continue
		}
		if err := d.load(); err != nil {
			d.log.LogAttrs(ctx, slog.LevelWarn, "the GeoIP database was replaced by one that cannot be used; the one before stays in force",
				slog.String("file", d.path), slog.String("error", err.Error()))
			continue
		}
		d.log.LogAttrs(ctx, slog.LevelInfo, "GeoIP database read again",
			slog.String("file", d.path), slog.Time("built", d.content.Load().Metadata.BuildTime()))
	}
}

// changed reports whether the file is another than was last looked at. One that is gone is not: it is about to come.
func (d *DB) changed() bool {
	info, err := os.Stat(d.path)
	return err == nil && (!os.SameFile(info, d.seen) || !info.ModTime().Equal(d.seen.ModTime()) || info.Size() != d.seen.Size())
}

// load reads the file and puts it in force.
func (d *DB) load() error {
	data, err := d.read()
	if err == nil {
		var db *maxminddb.Reader
		if db, err = maxminddb.OpenBytes(data); err == nil {
			err = d.check(db)
		}
		if err == nil {
			d.content.Store(db)
			return nil
		}
	}
	return fmt.Errorf("read GeoIP database %s: %w", d.path, err)
}

// read returns what is in the file, and notes which one it was.
func (d *DB) read() ([]byte, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, bare(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if d.seen, err = f.Stat(); err != nil {
		return nil, bare(err)
	}
	switch {
	case !d.seen.Mode().IsRegular():
		return nil, errors.New("not a file")
	case d.seen.Size() > MaxSize:
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", d.seen.Size(), MaxSize)
	}
	data := make([]byte, d.seen.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, bare(err)
	}
	return data, nil
}

// bare returns the cause of a file's error, which names the file again.
func bare(err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		return at.Err
	}
	return err
}

// check fails if none of the first networks is anywhere: a database of something else, or one that is damaged.
func (d *DB) check(db *maxminddb.Reader) error {
	n := 0
	for network := range db.Networks(maxminddb.SkipEmptyValues()) {
		if _, ok := d.place(network); ok {
			return nil
		}
		if err := network.Err(); err != nil {
			return err
		}
		if n++; n == sampled {
			break
		}
	}
	return fmt.Errorf("of its first %d networks none has location.latitude or country.iso_code: want a database of cities or countries, this is %q",
		n, db.Metadata.DatabaseType)
}

// Locate implements tokens.Locator: the place of a city, or else the middle of a country.
func (d *DB) Locate(address netip.Addr) (events.Location, bool) {
	db := d.content.Load()
	if db == nil {
		return events.Location{}, false
	}
	return d.place(db.Lookup(address.Unmap()))
}

// entry is what is read of a network: what the databases of MaxMind have, and after it those of others.
type entry struct {
	Location struct {
		Latitude  *float64 `maxminddb:"latitude"`
		Longitude *float64 `maxminddb:"longitude"`
	} `maxminddb:"location"`
	Country struct {
		Code string `maxminddb:"iso_code"`
	} `maxminddb:"country"`
	Latitude  *float64 `maxminddb:"latitude"`
	Longitude *float64 `maxminddb:"longitude"`
	Code      string   `maxminddb:"country_code"`
}

// place returns where a network is.
func (d *DB) place(network maxminddb.Result) (events.Location, bool) {
	var e entry
	if !network.Found() || network.Decode(&e) != nil {
		return events.Location{}, false
	}
	for _, at := range [...][2]*float64{{e.Location.Latitude, e.Location.Longitude}, {e.Latitude, e.Longitude}} {
		if at[0] == nil || at[1] == nil {
			continue
		}
		if l := (events.Location{Lat: *at[0], Lon: *at[1]}); onGlobe(l) {
			return l, true
		}
	}
	for _, code := range [...]string{e.Country.Code, e.Code} {
		if l, ok := d.countries[code]; ok {
			return l, true
		}
	}
	return events.Location{}, false
}

func onGlobe(l events.Location) bool {
	return l.Lat >= -90 && l.Lat <= 90 && l.Lon >= -180 && l.Lon <= 180
}
