package tokens

import (
	"sync"
	"sync/atomic"

	"github.com/berthhq/berth/placement"
	"github.com/berthhq/berth/registry"
)

// outlook is what decisions go by besides the view of the servers. The view with it is made once for each
// state of either.
type outlook struct {
	known atomic.Pointer[knowledge]
	made  atomic.Pointer[informedView]
	// changing is held by who changes what is known.
	changing sync.Mutex
}

// knowledge is never changed; nil is none.
type knowledge struct {
	prices placement.Prices
	times  placement.Times
	added  placement.Added
}

// informedView is a view, and what it was made of.
type informedView struct {
	base *registry.View
	by   *knowledge
	view *registry.View
}

// view returns a view with all that is known besides; nil is nil.
func (o *outlook) view(base *registry.View) *registry.View {
	known := o.known.Load()
	if known == nil || base == nil {
		return base
	}
	if m := o.made.Load(); m != nil && m.base == base && m.by == known {
		return m.view
	}
	m := &informedView{base, known, base.Informed(known.prices, known.times, known.added)}
	o.made.Store(m)
	return m.view
}

// price makes prices and times known.
func (o *outlook) price(p placement.Prices, t placement.Times) {
	o.change(func(k *knowledge) { k.prices, k.times = p, t })
}

// add makes known what sessions on their way add to servers.
func (o *outlook) add(a placement.Added) {
	if known := o.known.Load(); a == nil && (known == nil || known.added == nil) {
		return
	}
	o.change(func(k *knowledge) { k.added = a })
}

func (o *outlook) change(fn func(*knowledge)) {
	o.changing.Lock()
	defer o.changing.Unlock()
	var next knowledge
	if known := o.known.Load(); known != nil {
		next = *known
	}
	fn(&next)
	o.known.Store(&next)
}

// prices returns those in force, nil where all is free.
func (o *outlook) prices() placement.Prices {
	if known := o.known.Load(); known != nil {
		return known.prices
	}
	return nil
}
